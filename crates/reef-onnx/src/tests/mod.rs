//! Tests of whole models: the zoo in both of tract's forms, small graphs as snapshots, and broken files.

mod classical;
mod decomposed;
mod forms;
mod host;
mod indexed;
mod large;
mod malformed;
mod narrow;
mod network;
mod numeric;
mod operators;
mod programs;
mod resize;
mod rows;
mod selection;
mod shapes;
mod sizes;
mod texts;
mod transposed;
mod vision;
