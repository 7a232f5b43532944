//! Persistent buffers by size class.
//!
//! The pool hands out whole buffers, never slices of an arena: wgpu tracks usage per buffer, and one buffer may not be read
//! and written in one dispatch. A buffer returns when its last [`Lease`] is dropped and may be used again at once, without
//! a fence: all work goes through one queue in order, so whatever is submitted later runs later. The exceptions are
//! buffers that are read back, which the host touches; the queue holds their leases until the host is done.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::cache::Known;
use crate::error::{Error, Result};
use crate::queue::seam::Seam;
use crate::result::lock;

/// What a buffer is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Tensors.
    Storage,
    /// Results on their way to the host.
    Readback,
    /// Parameters, on devices without immediates.
    Uniform,
    /// Timestamps.
    Queries,
}

impl Kind {
    fn usage(self, mapped: bool) -> wgpu::BufferUsages {
        use wgpu::BufferUsages as U;
        match self {
            Kind::Storage if mapped => U::STORAGE | U::COPY_SRC | U::COPY_DST | U::MAP_READ,
            Kind::Storage => U::STORAGE | U::COPY_SRC | U::COPY_DST,
            Kind::Readback => U::MAP_READ | U::COPY_DST,
            Kind::Uniform => U::UNIFORM | U::COPY_DST,
            Kind::Queries => U::QUERY_RESOLVE | U::COPY_SRC,
        }
    }
}

/// Gauges and counters of a [`GpuBufferPool`].
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let gpu = GpuCompute::new(ComputeBackend::Gpu)?;
/// let x = gpu.zeros(&[100])?;
/// assert_eq!((gpu.pool_stats().live_buffers, gpu.pool_stats().live_bytes), (1, 512)); // 400 bytes, by size class
/// drop(x);
/// assert_eq!((gpu.pool_stats().live_buffers, gpu.pool_stats().idle_buffers), (0, 1));
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStats {
    /// Requests served from idle buffers.
    pub hits: u64,
    /// Requests that created a buffer.
    pub misses: u64,
    /// Buffers in use.
    pub live_buffers: u64,
    /// Bytes in use.
    pub live_bytes: u64,
    /// Buffers waiting to be used again.
    pub idle_buffers: u64,
    /// Bytes waiting to be used again.
    pub idle_bytes: u64,
    /// The largest sum of live and idle bytes so far.
    pub peak_bytes: u64,
}

/// Persistent device buffers by size class, shared by everything an engine does.
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let gpu = GpuCompute::new(ComputeBackend::Gpu)?;
/// let Some(pool) = gpu.pool() else { return Ok(()) };
/// pool.set_budget(Some(1 << 20));
/// assert!(gpu.zeros(&[1 << 20]).is_err()); // 4 MiB
/// drop(gpu.zeros(&[1 << 10])?);
/// pool.trim();
/// assert_eq!(pool.stats().idle_bytes, 0);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Clone)]
pub struct GpuBufferPool {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for GpuBufferPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GpuBufferPool").field("stats", &self.stats()).finish()
    }
}

struct Shared {
    seam: Arc<dyn Seam>,
    max_buffer_bytes: u64,
    /// Whether the host may map tensors themselves.
    mapped: bool,
    poison: AtomicBool,
    on_free: OnFree,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The lowest number goes out first, so that a pass recorded again gets the buffers, and the bind groups, it had.
    idle: HashMap<(Kind, u64), BTreeMap<u64, wgpu::Buffer>>,
    stats: PoolStats,
    budget: Option<u64>,
    /// Buffers that are gone, and that bind groups may still hold on to.
    dead: Vec<u64>,
}

impl State {
    fn is_over(&self) -> bool {
        self.budget.is_some_and(|budget| self.stats.live_bytes + self.stats.idle_bytes > budget)
    }
}

/// Called with the buffers that are gone, so that whoever keeps them alive lets go.
type OnFree = Box<dyn Fn(&[u64]) + Send + Sync>;

/// Every buffer of the process has a number of its own, so that a cache key never names two.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The number of a buffer that is not the pool's.
pub(crate) fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// Rounds up to a power of two or the middle between two: at most a third is wasted, and few classes exist.
fn size_class(bytes: u64) -> u64 {
    let bytes = bytes.max(256);
    let power = bytes.checked_next_power_of_two().unwrap_or(bytes);
    let middle = power / 4 * 3;
    if bytes <= middle { middle } else { power }
}

impl GpuBufferPool {
    /// `mapped`: the device lets the host map tensors themselves, and their memory is the host's anyway.
    pub(crate) fn new(seam: Arc<dyn Seam>, max_buffer_bytes: u64, mapped: bool, on_free: OnFree) -> GpuBufferPool {
        let (poison, state) = (AtomicBool::new(false), Mutex::default());
        let shared = Shared { seam, max_buffer_bytes, mapped, poison, on_free, state };
        GpuBufferPool { shared: Arc::new(shared) }
    }

    /// Hits, misses, live, idle and peak bytes.
    pub fn stats(&self) -> PoolStats {
        lock(&self.shared.state).stats
    }

    /// Sets the bytes that live and idle buffers may take together. `None`: as many as the device has.
    pub fn set_budget(&self, bytes: Option<u64>) {
        lock(&self.shared.state).budget = bytes;
    }

    /// The bytes that live and idle buffers may take together, if they are limited.
    pub fn budget(&self) -> Option<u64> {
        lock(&self.shared.state).budget
    }

    /// Frees every idle buffer.
    pub fn trim(&self) {
        let idle: Vec<_> = {
            let mut state = lock(&self.shared.state);
            state.stats.idle_buffers = 0;
            state.stats.idle_bytes = 0;
            state.idle.drain().flat_map(|(_, buffers)| buffers).collect()
        };
        lock(&self.shared.state).dead.extend(idle.iter().map(|(id, _)| *id));
        self.free_dead();
    }

    /// A bind group keeps its buffers alive, so memory is only free once the cache has forgotten it.
    fn free_dead(&self) {
        let dead = std::mem::take(&mut lock(&self.shared.state).dead);
        if !dead.is_empty() {
            (self.shared.on_free)(&dead);
        }
    }

    /// Fills every buffer handed out from now on with NaN, so that what reads unwritten memory shows. For tests.
    pub fn set_poison(&self, on: bool) {
        self.shared.poison.store(on, Ordering::Relaxed);
    }

    /// A buffer of at least `bytes`, from the idle ones if one fits.
    pub(crate) fn take(&self, kind: Kind, bytes: u64) -> Result<Arc<Lease>> {
        let class = size_class(bytes);
        // Near the largest buffer a class would overshoot it.
        let size = if class > self.shared.max_buffer_bytes { bytes.max(256).div_ceil(256) * 256 } else { class };
        self.lease(kind, size, true)
    }

    /// A buffer of `bytes`, rounded up to 256, that is freed rather than kept: for weights.
    pub(crate) fn take_exact(&self, bytes: u64) -> Result<Arc<Lease>> {
        self.lease(Kind::Storage, bytes.max(256).div_ceil(256) * 256, false)
    }

    fn lease(&self, kind: Kind, size: u64, keep: bool) -> Result<Arc<Lease>> {
        if size > self.shared.max_buffer_bytes {
            let limit = self.shared.max_buffer_bytes;
            return Err(Error::TooLarge { what: "a buffer, in bytes".to_owned(), needed: size, limit });
        }
        let recycled = {
            let mut state = lock(&self.shared.state);
            let found = if keep { state.idle.get_mut(&(kind, size)).and_then(BTreeMap::pop_first) } else { None };
            match found {
                Some(_) => {
                    state.stats.hits += 1;
                    state.stats.idle_buffers -= 1;
                    state.stats.idle_bytes -= size;
                }
                None => state.stats.misses += 1,
            }
            // Counted before it exists, so that two threads cannot both take the last of the budget.
            state.stats.live_buffers += 1;
            state.stats.live_bytes += size;
            found
        };
        let created = recycled.map_or_else(|| Ok((next_id(), self.create(kind, size)?)), Ok);
        let (id, buffer) = {
            let mut state = lock(&self.shared.state);
            let stats = &mut state.stats;
            if created.is_err() {
                stats.live_buffers -= 1;
                stats.live_bytes -= size;
            }
            stats.peak_bytes = stats.peak_bytes.max(stats.live_bytes + stats.idle_bytes);
            created?
        };
        if kind == Kind::Storage && self.shared.poison.load(Ordering::Relaxed) {
            self.shared.seam.write(&buffer, 0, &vec![0xff; size as usize])?;
        }
        Ok(Arc::new(Lease { id, buffer, size, kind, keep: AtomicBool::new(keep), home: Home::Pool(self.clone()) }))
    }

    /// A new buffer, counted as live already; idle ones are freed first where the budget or the device says so.
    fn create(&self, kind: Kind, size: u64) -> Result<wgpu::Buffer> {
        self.free_dead();
        let over = || lock(&self.shared.state).is_over();
        if over() {
            self.trim();
            if over() {
                return Err(Error::OutOfMemory { bytes: size, context: "over the pool's budget".to_owned() });
            }
        }
        let usage = kind.usage(self.shared.mapped);
        match self.shared.seam.create_buffer(size, usage) {
            Err(Error::OutOfMemory { .. }) => {
                self.trim();
                self.shared.seam.create_buffer(size, usage)
            }
            other => other,
        }
    }

    /// Another handle on the same pool.
    pub(crate) fn is(&self, other: &GpuBufferPool) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

/// A buffer in use. The last `Arc` of it gives it back.
pub(crate) struct Lease {
    pub(crate) id: u64,
    pub(crate) buffer: wgpu::Buffer,
    pub(crate) size: u64,
    kind: Kind,
    keep: AtomicBool,
    home: Home,
}

/// Where a buffer goes when its last lease is dropped.
enum Home {
    Pool(GpuBufferPool),
    /// It is the caller's own; the caches that know it forget it.
    Caller(Known),
}

impl Lease {
    /// Wraps a buffer that is not the pool's.
    pub(crate) fn borrowed(buffer: wgpu::Buffer) -> Arc<Lease> {
        let size = buffer.size();
        let (keep, home) = (AtomicBool::new(false), Home::Caller(Known::default()));
        Arc::new(Lease { id: next_id(), buffer, size, kind: Kind::Storage, keep, home })
    }

    /// The pool it came from; `None`: it is the caller's own.
    pub(crate) fn pool(&self) -> Option<&GpuBufferPool> {
        match &self.home {
            Home::Pool(pool) => Some(pool),
            Home::Caller(_) => None,
        }
    }

    /// Whether the host may map it while none but these `holders` and one tensor have it.
    pub(crate) fn is_mappable(self: &Arc<Self>, holders: usize) -> bool {
        let usable = self.pool().is_some() && self.buffer.usage().contains(wgpu::BufferUsages::MAP_READ);
        usable && Arc::strong_count(self) == holders + 1
    }

    /// The caches that know a caller's buffer.
    pub(crate) fn known(&self) -> Option<&Known> {
        match &self.home {
            Home::Pool(_) => None,
            Home::Caller(known) => Some(known),
        }
    }

    /// Ours can be copied to and from; a caller's as it was created.
    pub(crate) fn check_usage(&self, op: &'static str, usage: wgpu::BufferUsages) -> Result<()> {
        if self.buffer.usage().contains(usage) {
            return Ok(());
        }
        Err(Error::Shape { op, message: format!("the buffer was created without the usage {usage:?}") })
    }

    /// Not to be used again: its state is unknown.
    pub(crate) fn discard(&self) {
        self.keep.store(false, Ordering::Relaxed);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let pool = match &self.home {
            Home::Pool(pool) => pool,
            Home::Caller(known) => return known.forget_buffer(self.id),
        };
        let mut state = lock(&pool.shared.state);
        state.stats.live_buffers -= 1;
        state.stats.live_bytes -= self.size;
        if self.keep.load(Ordering::Relaxed) {
            state.stats.idle_buffers += 1;
            state.stats.idle_bytes += self.size;
            state.idle.entry((self.kind, self.size)).or_default().insert(self.id, self.buffer.clone());
        } else {
            state.dead.push(self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::size_class;

    #[test]
    fn classes_waste_at_most_a_third() {
        for bytes in (1..100_000u64).chain((1 << 30)..(1 << 30) + 1000) {
            let class = size_class(bytes);
            assert!(class >= bytes && class.is_multiple_of(64), "{bytes}: {class}");
            assert!(bytes < 256 || class * 2 <= bytes * 3, "{bytes}: {class}");
        }
    }
}
