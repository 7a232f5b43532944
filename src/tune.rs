//! The workshop: which knobs make a kernel fastest, here, at a shape.
//!
//! A sweep takes the legal combinations of a kernel's knobs one after the other. Each is verified against the twin before
//! its time may count, because what computes nothing is fast; and it is timed in turns with the default and with the best so
//! far, because a machine that slows down half way favours whoever came first. What does not compile, is wrong, takes more than
//! twice the best's time or loses the device is a result as well, and is written down as such. In the end default and best meet once more, and the best is the
//! winner only where the whole interval of their ratio is above 1.
//!
//! Nothing here runs by itself: a program loads what was found ([`Tuning`](crate::Tuning)).

mod arms;
mod cache;
mod candidates;
mod report;
mod search;
mod sweep;
mod tuner;

pub use cache::TuneCache;
pub use candidates::{Knob, Tuned};
pub use report::{Candidate, Rival, Status, Sweep, TUNE_SCHEMA, TuneReport, Verdict};
pub use sweep::{Limits, Step};
pub use tuner::{Duel, Tuner};
