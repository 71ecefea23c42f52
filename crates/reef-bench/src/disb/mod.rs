//! DISB: the DNN inference serving benchmark of the REEF paper, every scheme side by side.
//!
//! | module | owns |
//! |---|---|
//! | [`workload`] | what clients ask when: the file format, the built-in workloads |
//! | [`play`] | the contract between the driver and the systems that play a run |
//! | [`report`] | what was found, as it is written and read back |
//!
//! What is compared is interleaved: a repetition of a workload plays every condition of every system, then
//! comes the next repetition. Arrivals are a function of seed, workload and repetition alone, so all
//! conditions of a repetition see the same ones.

pub mod compare;
pub mod html;
pub mod paper;
pub mod play;
pub mod report;
pub mod workload;
