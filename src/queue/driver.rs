//! Who polls, where it is not a thread of ours. On a caller's device a result is completed by whoever looks at it: what the
//! device has reported is in flags that callbacks set, so that looking asks the device nothing, and only waiting does.

use std::sync::Arc;
use std::time::Duration;

use super::{Job, POLL_SLICE, Shared};

/// Who polls the device.
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute, Options, Poller};
///
/// // Without a thread of its own; a wait polls.
/// let options = Options { poller: Some(Poller::Caller), ..Options::new(ComputeBackend::Gpu) };
/// let gpu = GpuCompute::open(&options)?;
/// assert_eq!(gpu.relu(&[-1.0, 1.0])?, [0.0, 1.0]);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poller {
    /// A thread of the engine's own: results arrive by themselves.
    Thread,
    /// Whoever owns the device, and whoever waits: the engine starts no thread.
    Caller,
}

/// Completes results where no thread polls the device.
#[derive(Clone)]
pub(crate) struct Driver(pub(super) Arc<Shared>);

impl Driver {
    /// Completes what the device has reported. Never asks it.
    pub(crate) fn settle(&self) {
        while self.0.settle(Job::is_reported) {}
    }

    /// Asks the device for at most `limit` and completes what is done. `false` where nothing is in flight.
    pub(crate) fn drive(&self, limit: Duration) -> bool {
        self.settle();
        self.0.step(limit.min(POLL_SLICE))
    }
}
