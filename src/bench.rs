//! Measuring: one harness for the kernels of `cargo bench` and `gristmill bench`, and for the tuner. Models and the parity example
//! have its turns and its statistics.
//!
//! What it does to a [`Workload`], always: it checks the result first, against the reference, at the very shape that is
//! timed; it warms up; it goes through several sets of operands, so that a cache does not pass for memory; it lets what is
//! compared take turns, so that whatever else the machine does happens to all; and it repeats, for a median with an
//! interval ([`Estimate`]). Times are the device's own where it has a clock, with the wall's beside them.
//!
//! A figure is judged by what the same device can do at most ([`Ceilings`]: multiply-adds, and memory at the same size of
//! working set). One that is above 1.25 times that is measured again, both of them, and if it stays there it is an error
//! and no result; but products of halves on matrix units have no probe. Results are [`Record`]s: JSON lines, with the environment and the command that made them.

mod baseline;
mod ceilings;
mod harness;
mod kernels;
mod model;
mod record;
mod statistics;

pub use baseline::{Change, compare};
pub use ceilings::{Ceilings, datasheet, yardstick};
pub use harness::{Harness, Measurement, Output, Workload, turns};
pub use kernels::{Row, row_of, rows, rows_of};
pub use model::{ModelTest, Runner, TestKind};
pub use record::{
    Adapter, Datasheet, Entry, Environment, KernelRow, ModelRow, ParityRow, PeerRow, ProfileOp, ProfileRow, Record,
    SCHEMA, SchedulerRow, parse_records,
};
pub use statistics::{Estimate, ratios};
