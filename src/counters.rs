//! Our own monotonic counters: the proof that steady state creates nothing and uploads nothing.
//!
//! They are counted where we call wgpu and not asked of it: wgpu's own report counts what is alive, and a buffer that is
//! created and dropped in every step leaves no trace there. They only grow, so that two snapshots can be subtracted while
//! other threads go on; each is an atomic of its own without an order among them, so a snapshot amid work is of no one
//! moment. Tests hold them against exact numbers: a decoding step that creates a bind group fails, and so does a guest on a
//! caller's device that submits.

use std::sync::atomic::{AtomicU64, Ordering};

/// A snapshot of everything an engine did since it was opened. All counts only grow; subtract two snapshots.
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute, ops};
///
/// let gpu = GpuCompute::new(ComputeBackend::Gpu)?;
/// let mut x = gpu.tensor(&[-1.0, 2.0], &[2])?;
/// let before = gpu.stats();
/// let mut pass = gpu.pass();
/// ops::relu(&mut pass, &mut x)?;
/// pass.submit()?;
/// let after = gpu.stats();
/// assert_eq!((after.submits - before.submits, after.dispatches - before.dispatches), (1, 1));
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Queue submissions.
    pub submits: u64,
    /// Calls of `Device::poll`.
    pub polls: u64,
    /// Buffer maps asked for.
    pub maps: u64,
    /// Buffers created.
    pub buffers_created: u64,
    /// Compute pipelines compiled.
    pub pipelines_created: u64,
    /// Bind groups created.
    pub bind_groups_created: u64,
    /// Bytes written to the device, parameters in uniform buffers included.
    pub bytes_uploaded: u64,
    /// Bytes read back.
    pub bytes_downloaded: u64,
    /// Dispatches submitted.
    pub dispatches: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) submits: AtomicU64,
    pub(crate) polls: AtomicU64,
    pub(crate) maps: AtomicU64,
    pub(crate) buffers_created: AtomicU64,
    pub(crate) pipelines_created: AtomicU64,
    pub(crate) bind_groups_created: AtomicU64,
    pub(crate) bytes_uploaded: AtomicU64,
    pub(crate) bytes_downloaded: AtomicU64,
    pub(crate) dispatches: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            submits: get(&self.submits),
            polls: get(&self.polls),
            maps: get(&self.maps),
            buffers_created: get(&self.buffers_created),
            pipelines_created: get(&self.pipelines_created),
            bind_groups_created: get(&self.bind_groups_created),
            bytes_uploaded: get(&self.bytes_uploaded),
            bytes_downloaded: get(&self.bytes_downloaded),
            dispatches: get(&self.dispatches),
        }
    }
}
