//! Host memory for products, kept for the next one.
//!
//! Memory that the system hands out is not there until it is written, a page fault at a time, and for a product of little
//! depth that can take longer than the product. A vector that was used before has its pages. What is kept is bounded twice,
//! by number and by bytes, and the oldest goes first: a pool without bounds is a leak. A vector serves a product of at
//! least half its size, unless it is small, because a large one lent to small products is missing when a large product
//! comes.

use std::sync::Mutex;

use crate::error::{Error, Result};
use crate::pool::PoolStats;
use crate::result::lock;

/// Vectors that are kept at most.
const MAX_IDLE: usize = 32;
/// Bytes that are kept at most.
const MAX_IDLE_BYTES: usize = 256 << 20;
/// Elements up to which a vector serves whatever fits it; beyond, at most half of it may lie idle.
const SMALL: usize = 4096;

/// Gauges and counters of the memory behind [`HybridScheduler::matmul_pooled`](super::HybridScheduler::matmul_pooled).
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute, HybridScheduler};
///
/// let scheduler = HybridScheduler::with_gpu(GpuCompute::new(ComputeBackend::Cpu)?)?;
/// for _ in 0..3 {
///     let product = scheduler.matmul_pooled(&[2.0], &[3.0], 1, 1, 1)?;
///     scheduler.release_buffer(product);
/// }
/// let stats = scheduler.pool_stats();
/// assert_eq!((stats.misses, stats.hits, stats.idle_buffers), (1, 2, 1));
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostPoolStats {
    /// Products that were written to a released vector.
    pub hits: u64,
    /// Products for which memory was allocated.
    pub misses: u64,
    /// Released vectors that wait: 32 at most.
    pub idle_buffers: usize,
    /// Their bytes: 256 MiB at most.
    pub idle_bytes: usize,
    /// The buffers on the device, operands and products; zeros where there is no GPU.
    pub gpu: PoolStats,
}

#[derive(Default)]
pub(super) struct HostPool(Mutex<State>);

#[derive(Default)]
struct State {
    /// The oldest first.
    idle: Vec<Vec<f32>>,
    hits: u64,
    misses: u64,
}

fn bytes(buffers: &[Vec<f32>]) -> usize {
    buffers.iter().map(|buffer| buffer.capacity() * size_of::<f32>()).sum()
}

impl HostPool {
    /// `count` elements of any value: the smallest vector that fits, else a new one.
    pub(super) fn take(&self, count: usize) -> Result<Vec<f32>> {
        let recycled = {
            let mut state = lock(&self.0);
            let fits = |capacity: usize| capacity >= count && capacity <= count.saturating_mul(2).max(SMALL);
            let idle = state.idle.iter().enumerate().filter(|(_, buffer)| fits(buffer.capacity()));
            let found = idle.min_by_key(|(_, buffer)| buffer.capacity()).map(|(i, _)| i);
            match found {
                Some(_) => state.hits += 1,
                None => state.misses += 1,
            }
            found.map(|i| state.idle.remove(i))
        };
        let Some(mut buffer) = recycled else { return zeros(count) };
        buffer.resize(count, 0.0);
        Ok(buffer)
    }

    /// Keeps a vector, at the cost of the oldest ones where there are too many.
    pub(super) fn give(&self, buffer: Vec<f32>) {
        if buffer.capacity() == 0 || bytes(std::slice::from_ref(&buffer)) > MAX_IDLE_BYTES {
            return;
        }
        let mut state = lock(&self.0);
        state.idle.push(buffer);
        while state.idle.len() > MAX_IDLE || bytes(&state.idle) > MAX_IDLE_BYTES {
            state.idle.remove(0);
        }
    }

    pub(super) fn stats(&self, gpu: PoolStats) -> HostPoolStats {
        let state = lock(&self.0);
        let (idle_buffers, idle_bytes) = (state.idle.len(), bytes(&state.idle));
        HostPoolStats { hits: state.hits, misses: state.misses, idle_buffers, idle_bytes, gpu }
    }
}

/// Zeros. Asked for before they are taken, because `vec!` ends the process where there are not as many.
pub(super) fn zeros(count: usize) -> Result<Vec<f32>> {
    let bytes = (count as u64).saturating_mul(4);
    let none = |_| Error::OutOfMemory { bytes, context: "a product in host memory".to_owned() };
    Vec::<f32>::new().try_reserve_exact(count).map_err(none)?;
    Ok(vec![0.0; count])
}

#[cfg(test)]
mod tests {
    use super::{HostPool, MAX_IDLE, MAX_IDLE_BYTES, PoolStats, zeros};

    #[test]
    fn what_is_kept_is_bounded_and_fits() {
        let pool = HostPool::default();
        let stats = || pool.stats(PoolStats::default());
        for i in 0..2 * MAX_IDLE {
            pool.give(vec![1.0; 10 + i]);
        }
        assert_eq!(stats().idle_buffers, MAX_IDLE);
        // The oldest are gone, the smallest of the rest that fits is taken.
        assert_eq!(pool.take(10 + MAX_IDLE).unwrap().capacity(), 10 + MAX_IDLE);
        assert_eq!(pool.take(12).unwrap().capacity(), 11 + MAX_IDLE);
        assert_eq!((stats().hits, stats().misses), (2, 0));
        // Nothing fits: too long, and far too short.
        assert_eq!(pool.take(5000).unwrap(), [0.0; 5000]);
        pool.give(vec![1.0; 20_000]);
        assert_eq!(pool.take(5000).unwrap().capacity(), 5000);
        assert_eq!(pool.take(12_000).unwrap().len(), 12_000);
        assert_eq!((stats().hits, stats().misses), (3, 2));

        let quarter = MAX_IDLE_BYTES / 16;
        (0..6).for_each(|_| pool.give(zeros(quarter).unwrap()));
        assert!(stats().idle_bytes <= MAX_IDLE_BYTES && stats().idle_buffers <= 4, "{:?}", stats());
        let before = stats();
        pool.give(zeros(MAX_IDLE_BYTES / 4 + 1).unwrap());
        pool.give(Vec::new());
        assert_eq!(stats(), before);
        assert!(zeros(usize::MAX).is_err());
    }
}
