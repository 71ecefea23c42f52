//! DISB: the DNN inference serving benchmark of the REEF paper, every scheme side by side.
//!
//! | module | owns |
//! |---|---|
//! | [`options`] | what a run is asked to do, and the models it needs |
//! | [`system`] | the contract between the driver and the systems that play a run |
//! | [`engine`] | the systems that are ours or speak our protocol |
//! | [`rig`] | simulated devices |
//! | [`peer`] | other systems, behind adapters |
//! | [`drive`] | what is played in which order |
//! | [`tally`] | from records to results |
//! | [`checks`] | what a run has to reach |
//! | [`timeline`] | the device around one preemption |
//!
//! What is compared is interleaved: a repetition of a workload plays every condition of every system, then
//! comes the next repetition. Arrivals are a function of seed, workload and repetition alone, so all
//! conditions of a repetition see the same ones.

pub mod checks;
pub mod drive;
pub mod engine;
pub mod options;
pub mod peer;
pub mod rig;
pub mod system;
pub mod tally;
pub mod timeline;
