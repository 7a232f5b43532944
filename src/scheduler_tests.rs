//! The scheduler on both of its sides: a threshold of 0 sends everything to the adapter, one of `usize::MAX` nothing, and
//! counters say where each product really ran. Decisions are also made from calibrations of adapters that are not there.

use std::sync::Arc;

use crate::error::Error;
use crate::faults::{PATIENCE, Script, eventually, open, with_engine};
use crate::gpu::{ComputeBackend, GpuCompute};
use crate::reference;
use crate::scheduler::{Calibration, HybridScheduler, MatmulOp, Place, Residency, SchedulerStats, Why};
use crate::verify::bounds;
use crate::verify::inputs::Inputs;

/// More than one tile in every direction, and no multiple of anything.
const SHAPE: (usize, usize, usize) = (67, 129, 131);

/// Operands and what their product may be.
struct Case {
    shape: (usize, usize, usize),
    a: Vec<f32>,
    b: Vec<f32>,
    transposed: bool,
    right: Vec<f64>,
    bound: Vec<f64>,
}

impl Case {
    fn new(shape: (usize, usize, usize)) -> Case {
        Case::of(shape, false)
    }

    fn of((m, k, n): (usize, usize, usize), transposed: bool) -> Case {
        let mut inputs = Inputs::new(&format!("scheduler {m} {k} {n}"));
        let (a, b) = (inputs.uniform(m * k), inputs.uniform(k * n));
        let truth = |a: &[f32], b: &[f32]| match transposed {
            true => reference::matmul_transpose_b(a, b, None, 1.0, (m, k, n)),
            false => reference::matmul(a, b, (m, k, n)),
        };
        let magnitudes = |x: &[f32]| x.iter().map(|v| v.abs()).collect::<Vec<f32>>();
        let sums = truth(&magnitudes(&a), &magnitudes(&b));
        let bound = sums.into_iter().map(|sum| bounds::product(k, sum)).collect();
        Case { shape: (m, k, n), right: truth(&a, &b), a, b, transposed, bound }
    }

    fn check(&self, product: &[f32]) {
        assert_eq!(product.len(), self.right.len(), "{:?}", self.shape);
        for (i, ((&got, right), bound)) in product.iter().zip(&self.right).zip(&self.bound).enumerate() {
            assert!((f64::from(got) - right).abs() <= *bound, "{:?}, element {i}: {got}, not {right}", self.shape);
        }
    }

    fn op(&self) -> MatmulOp<'_> {
        let (m, k, n) = self.shape;
        MatmulOp { a: &self.a, b: &self.b, m, k, n }
    }

    fn run(&self, scheduler: &HybridScheduler) -> Vec<f32> {
        let (m, k, n) = self.shape;
        let product = match self.transposed {
            true => scheduler.matmul_transpose_b(&self.a, &self.b, m, k, n),
            false => scheduler.matmul(&self.a, &self.b, m, k, n),
        };
        product.unwrap()
    }
}

/// On an adapter, be it a software one.
fn scheduler(threshold: usize) -> Option<(HybridScheduler, GpuCompute, Arc<Script>)> {
    let (gpu, script) = open(|_| ())?;
    Some((HybridScheduler::with_gpu(gpu.clone()).unwrap().threshold(threshold), gpu, script))
}

/// Everything on the adapter, then everything on the CPU.
const FORCED: [usize; 2] = [0, usize::MAX];

/// Products that `run` started on either side, of which those on the adapter dispatched at least as often.
fn calls(scheduler: &HybridScheduler, gpu: &GpuCompute, run: impl FnOnce()) -> (u64, u64) {
    let (before, dispatches) = (scheduler.stats(), gpu.stats().dispatches);
    run();
    let SchedulerStats { gpu_calls, cpu_calls, .. } = scheduler.stats();
    let (on_gpu, on_cpu) = (gpu_calls - before.gpu_calls, cpu_calls - before.cpu_calls);
    assert_eq!(gpu.stats().dispatches - dispatches, on_gpu, "one dispatch for each product on the adapter");
    (on_gpu, on_cpu)
}

/// What [`calls`] returns for `count` products under one of [`FORCED`].
fn all(threshold: usize, count: u64) -> (u64, u64) {
    if threshold == 0 { (count, 0) } else { (0, count) }
}

#[test]
fn test_gpu_compute_auto_creation() {
    let auto = GpuCompute::auto().unwrap();
    assert!(!auto.reason().is_empty());
    assert_eq!(auto.is_gpu(), auto.adapter().is_some());
    let named = |key| std::env::var(key).is_ok_and(|name| !name.is_empty());
    if !named("GRISTMILL_ADAPTER") && !named("WGPU_ADAPTER_NAME") {
        // A software adapter is taken only by name.
        assert!(auto.adapter().is_none_or(|facts| !facts.software), "{auto:?}");
    }
    let case = Case::new(SHAPE);
    let (m, k, n) = SHAPE;
    case.check(&auto.matmul(&case.a, &case.b, m, k, n).unwrap());
    let Some((gpu, _)) = open(|_| ()) else { return };
    case.check(&gpu.matmul(&case.a, &case.b, m, k, n).unwrap());
    assert_eq!(gpu.stats().dispatches, 1);
}

#[test]
fn test_hybrid_scheduler_creation() {
    let (auto, scheduler) = (GpuCompute::auto().unwrap(), HybridScheduler::new().unwrap());
    assert_eq!((scheduler.has_gpu(), scheduler.reason()), (auto.is_gpu(), auto.reason()));
    assert_eq!(scheduler.stats(), SchedulerStats::default());
    if !scheduler.has_gpu() {
        assert!(scheduler.gpu().is_none() && scheduler.calibration().unwrap().is_none());
        assert_eq!(scheduler.gpu_threshold(), usize::MAX);
        assert!(!scheduler.should_use_gpu(4096, 4096, 4096));
        let why = scheduler.explain(64, 64, 64).to_string();
        assert!(why.starts_with("CPU: there is no GPU") && why.contains(scheduler.reason()), "{why}");
    }
    let cpu = HybridScheduler::with_gpu(GpuCompute::new(ComputeBackend::Cpu).unwrap()).unwrap().threshold(0);
    assert!(!cpu.has_gpu() && !cpu.should_use_gpu(9, 9, 9));
    Case::new(SHAPE).check(&Case::new(SHAPE).run(&cpu));
    assert_eq!((cpu.stats().gpu_calls, cpu.stats().cpu_calls), (0, 1));
    let Some((forced, gpu, _)) = self::scheduler(0) else { return };
    assert!(forced.has_gpu() && forced.gpu().is_some() && forced.reason() == gpu.reason());
    // Nothing is measured where nothing needs it.
    assert_eq!(gpu.stats().dispatches, 0);
}

#[test]
fn test_hybrid_scheduler_matmul() {
    for threshold in FORCED {
        let Some((scheduler, gpu, _)) = scheduler(threshold) else { return };
        let cases = [SHAPE, (1, 300, 257), (9, 66, 5)].into_iter().flat_map(|s| [Case::new(s), Case::of(s, true)]);
        let cases: Vec<Case> = cases.collect();
        let ran = calls(&scheduler, &gpu, || cases.iter().for_each(|case| case.check(&case.run(&scheduler))));
        assert_eq!(ran, all(threshold, 6));
        // A sum over nothing, and nothing at all.
        assert_eq!(scheduler.matmul(&[], &[], 3, 0, 2).unwrap(), [0.0; 6]);
        assert_eq!(scheduler.matmul_transpose_b(&[], &[], 3, 0, 2).unwrap(), [0.0; 6]);
        assert!(scheduler.matmul(&[], &[0.0; 6], 0, 3, 2).unwrap().is_empty());
        assert!(scheduler.matmul(&[0.0; 6], &[], 2, 3, 0).unwrap().is_empty());
        // What does not fit is told before it is counted.
        let before = scheduler.stats();
        let refused = scheduler.matmul(&[0.0; 5], &[0.0; 6], 2, 3, 2).unwrap_err();
        assert_eq!(refused.to_string(), "matmul: a has 5 elements for [2, 3], b has 6 for [3, 2]");
        let refused = scheduler.matmul_transpose_b(&[0.0; 6], &[0.0; 9], 2, 3, 2).unwrap_err();
        assert_eq!(refused.to_string(), "matmul_transpose_b: a has 6 elements for [2, 3], b has 9 for [2, 3]");
        let huge = usize::MAX / 2 + 2;
        assert!(matches!(scheduler.matmul(&[], &[], huge, 2, 0), Err(Error::Shape { .. })));
        assert!(matches!(scheduler.matmul(&[], &[], huge, 0, 2), Err(Error::Shape { .. })));
        assert!(matches!(scheduler.matmul(&[], &[], huge / 2, 0, 2), Err(Error::OutOfMemory { .. })));
        assert_eq!(scheduler.stats(), before);
    }
}

#[test]
fn test_hybrid_scheduler_batch_matmul() {
    // More than the queue holds; sizes grow, so that a threshold in the middle parts them.
    let cases: Vec<Case> = (0..10).map(|i| Case::new((5 + 13 * i, 67 + i, 70 + 3 * i))).collect();
    let work = |case: &Case| case.shape.0 * case.shape.1 * case.shape.2;
    for threshold in [0, usize::MAX, work(&cases[6])] {
        let Some((scheduler, gpu, _)) = scheduler(threshold) else { return };
        // Out of order, so that sides alternate.
        let batch: Vec<&Case> = [9, 0, 6, 5, 8, 1, 2, 7, 3, 4].map(|i| &cases[i]).to_vec();
        let ran = calls(&scheduler, &gpu, || {
            let products = scheduler.matmul_batch(&batch.iter().map(|case| case.op()).collect::<Vec<_>>()).unwrap();
            assert_eq!(products.len(), batch.len());
            products.iter().zip(&batch).for_each(|(product, case)| case.check(product));
        });
        assert_eq!(
            ran,
            match threshold {
                0 => (10, 0),
                usize::MAX => (0, 10),
                _ => (4, 6),
            }
        );
        assert!(scheduler.matmul_batch(&[]).unwrap().is_empty());
        // One that does not fit stops all of them.
        let wrong = MatmulOp { a: &[1.0], b: &[1.0], m: 1, k: 2, n: 1 };
        let before = scheduler.stats();
        assert!(matches!(scheduler.matmul_batch(&[cases[9].op(), wrong]), Err(Error::Shape { .. })));
        assert_eq!(scheduler.stats(), before);
    }
}

#[test]
fn test_hybrid_scheduler_async_matmul() {
    let (m, k, n) = SHAPE;
    // The adapter: nothing completes while the gate is closed.
    with_engine(
        |_| (),
        move |gpu, script| {
            let scheduler = HybridScheduler::with_gpu(gpu.clone()).unwrap().threshold(0);
            let case = Case::new(SHAPE);
            script.close_gate();
            let start = || scheduler.matmul_async(&case.a, &case.b, m, k, n).unwrap();
            let ran = calls(&scheduler, &gpu, || {
                let (mut pending, dropped) = (start(), start());
                assert!(!pending.is_ready() && pending.try_get().is_none());
                drop(dropped);
                script.open_gate();
                eventually("a product", || pending.is_ready());
                case.check(&pending.try_get().unwrap().unwrap());
            });
            assert_eq!(ran, (2, 0));
            // Dropping one gives its buffers back, and the engine goes on.
            gpu.wait_idle().unwrap();
            assert_eq!(gpu.pool_stats().live_buffers, 0);
            case.check(&pollster::block_on(start()).unwrap());
        },
    );
    // The CPU: a pool whose only thread is busy submitting cannot compute.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let scheduler = HybridScheduler::with_gpu(GpuCompute::new(ComputeBackend::Cpu).unwrap()).unwrap();
    let case = Case::new(SHAPE);
    let start = || scheduler.matmul_async(&case.a, &case.b, m, k, n).unwrap();
    let mut pending = pool.install(|| {
        let (mut pending, dropped) = (start(), start());
        assert!(!pending.is_ready() && pending.try_get().is_none());
        drop(dropped);
        pending
    });
    eventually("a product", || pending.is_ready());
    case.check(&pending.try_get().unwrap().unwrap());
    assert!(matches!(pending.wait(PATIENCE), Err(Error::AlreadyTaken)));
    case.check(&pollster::block_on(start()).unwrap());
    assert_eq!(scheduler.stats().cpu_calls, 3);
    assert!(matches!(scheduler.matmul_async(&[], &[], 1, 1, 1), Err(Error::Shape { .. })));
}

#[test]
fn test_hybrid_scheduler_pooled_matmul() {
    let (m, k, n) = SHAPE;
    for threshold in FORCED {
        let Some((scheduler, gpu, _)) = scheduler(threshold) else { return };
        let case = Case::new(SHAPE);
        let pooled = || scheduler.matmul_pooled(&case.a, &case.b, m, k, n).unwrap();
        let ran = calls(&scheduler, &gpu, || {
            // Whatever the memory held: longer, shorter, NaN.
            let mut product = pooled();
            for length in [m * n, m * n + 7, 5] {
                case.check(&product);
                product.fill(f32::NAN);
                product.resize(length, f32::NAN);
                let memory = product.as_ptr();
                scheduler.release_buffer(product);
                product = pooled();
                assert_eq!(product.as_ptr(), memory);
            }
            case.check(&product);
            scheduler.release_buffer(product);
        });
        assert_eq!(ran, all(threshold, 4));
        // No more work than without the pool.
        gpu.wait_idle().unwrap();
        let start = gpu.stats();
        case.check(&case.run(&scheduler));
        gpu.wait_idle().unwrap();
        let middle = gpu.stats();
        case.check(&pooled());
        gpu.wait_idle().unwrap();
        let end = gpu.stats();
        let work = |from: crate::Stats, to: crate::Stats| {
            let transfers = [to.bytes_uploaded - from.bytes_uploaded, to.bytes_downloaded - from.bytes_downloaded];
            let calls = [to.submits - from.submits, to.dispatches - from.dispatches, to.maps - from.maps];
            let made = [to.buffers_created - from.buffers_created, to.bind_groups_created - from.bind_groups_created];
            (transfers, calls, made)
        };
        assert_eq!(work(middle, end), work(start, middle));
        assert_eq!(work(middle, end).2, [0, 0], "steady state creates nothing");
        assert!(matches!(scheduler.matmul_pooled(&[], &[], 1, 1, 1), Err(Error::Shape { .. })));
    }
}

#[test]
fn test_hybrid_scheduler_pool_stats() {
    for threshold in FORCED {
        let Some((scheduler, gpu, _)) = scheduler(threshold) else { return };
        assert_eq!(scheduler.pool_stats(), Default::default());
        let (case, (m, k, n)) = (Case::new(SHAPE), SHAPE);
        let pooled = || scheduler.matmul_pooled(&case.a, &case.b, m, k, n).unwrap();
        let ran = calls(&scheduler, &gpu, || {
            let (first, second) = (pooled(), pooled());
            let stats = scheduler.pool_stats();
            assert_eq!((stats.hits, stats.misses, stats.idle_buffers, stats.idle_bytes), (0, 2, 0, 0));
            scheduler.release_buffer(first);
            scheduler.release_buffer(second);
            let stats = scheduler.pool_stats();
            assert_eq!((stats.idle_buffers, stats.idle_bytes), (2, 2 * 4 * m * n));
            case.check(&pooled());
            let stats = scheduler.pool_stats();
            assert_eq!((stats.hits, stats.misses, stats.idle_buffers, stats.idle_bytes), (1, 2, 1, 4 * m * n));
            // What the caller made serves as well.
            scheduler.release_buffer(vec![f32::NAN; m * n]);
            let _ = (pooled(), pooled());
            assert_eq!((scheduler.pool_stats().hits, scheduler.pool_stats().idle_buffers), (3, 0));
        });
        assert_eq!(ran, all(threshold, 5));
        gpu.wait_idle().unwrap();
        let on_device = scheduler.pool_stats().gpu;
        assert_eq!(on_device, gpu.pool_stats());
        assert_eq!((on_device.hits > 0, on_device.idle_buffers > 0), (threshold == 0, threshold == 0));
    }
}

/// Bytes/s up and down, seconds of a call, multiplications/s on the GPU and on the CPU.
fn rates(upload: f64, download: f64, fixed: f64, gpu: f64, cpu: f64) -> Calibration {
    Calibration::from_rates(upload, download, fixed, gpu, cpu)
}

#[test]
fn test_hybrid_scheduler_should_use_gpu() {
    let Some((gpu, _)) = open(|_| ()) else { return };
    let with = |calibration: Calibration| {
        HybridScheduler::with_calibration(gpu.clone(), calibration.named_after(&gpu)).unwrap()
    };
    // A discrete adapter: 10 GB/s, 50 us, 5 T/s against 100 G/s.
    let fast = || rates(1e10, 1e10, 50e-6, 5e12, 1e11);
    let scheduler = with(fast());
    assert!(scheduler.should_use_gpu(2048, 2048, 2048) && !scheduler.should_use_gpu(64, 64, 64));
    // One row is not worth its matrix's way, unless that is there already.
    assert!(!scheduler.should_use_gpu(1, 4096, 4096));
    let weights = Residency { b: Place::Device, ..Residency::HOST };
    assert!(scheduler.explain_resident(1, 4096, 4096, weights).is_gpu());
    for (m, k, n) in [(0, 5, 5), (5, 0, 5), (5, 5, 0), (0, usize::MAX, usize::MAX), (usize::MAX, 0, 1)] {
        let decision = scheduler.explain(m, k, n);
        assert!(!decision.is_gpu() && matches!(decision.why, Why::Empty), "{decision}");
    }
    for shape in [[usize::MAX; 3], [usize::MAX, 1, 1], [1, usize::MAX, 1], [1, 1, usize::MAX], [1 << 32; 3]] {
        let decision = scheduler.explain(shape[0], shape[1], shape[2]);
        assert!(!decision.is_gpu() && matches!(decision.why, Why::DoesNotFit), "{decision}");
    }
    // A slow bus, a slow GPU, a slow call: each is reason enough.
    for slow in
        [rates(1e8, 1e8, 50e-6, 5e12, 1e11), rates(1e10, 1e10, 50e-6, 5e10, 1e11), rates(1e10, 1e10, 1.0, 5e12, 1e11)]
    {
        assert!(!with(slow).should_use_gpu(1024, 1024, 1024));
    }
    // Both sides really compute what they were chosen for, and asking has measured nothing.
    let (small, large) = (Case::new((9, 10, 11)), Case::new(SHAPE));
    let scheduler = with(rates(1e10, 1e10, 50e-6, 5e12, 1e9));
    let ran =
        calls(&scheduler, &gpu, || [&small, &large].into_iter().for_each(|case| case.check(&case.run(&scheduler))));
    assert_eq!((ran, gpu.stats().dispatches), ((1, 1), 1));
}

#[test]
fn test_hybrid_scheduler_threshold() {
    let (m, k, n) = SHAPE;
    let work = m * k * n;
    let never = HybridScheduler::with_threshold(work).unwrap();
    assert_eq!((never.gpu_threshold(), never.has_gpu()), (work, HybridScheduler::new().unwrap().has_gpu()));
    assert_eq!(never.should_use_gpu(m, k, n), never.has_gpu());
    let case = Case::new(SHAPE);
    for (threshold, on_gpu) in [(work - 1, true), (work, true), (work + 1, false)] {
        let Some((scheduler, gpu, _)) = scheduler(threshold) else { return };
        assert_eq!(scheduler.gpu_threshold(), threshold);
        let decision = scheduler.explain(m, k, n);
        assert_eq!((scheduler.should_use_gpu(m, k, n), decision.is_gpu()), (on_gpu, on_gpu));
        let relation = if on_gpu { "GPU: m k n = 1132233 reaches" } else { "CPU: m k n = 1132233 is below" };
        assert_eq!(decision.to_string(), format!("{relation} the threshold {threshold}"));
        let ran = calls(&scheduler, &gpu, || case.check(&case.run(&scheduler)));
        assert_eq!(ran, if on_gpu { (1, 0) } else { (0, 1) });
    }
    let Some((scheduler, ..)) = scheduler(usize::MAX - 1) else { return };
    for [m, k, n] in [[usize::MAX; 3], [usize::MAX, 2, 1], [1 << 32, 1, 1 << 32]] {
        assert!(scheduler.should_use_gpu(m, k, n), "more than can be counted is more than any threshold");
    }
    for [m, k, n] in [[0, usize::MAX, usize::MAX], [usize::MAX, usize::MAX, 0], [usize::MAX, 0, usize::MAX]] {
        assert!(!scheduler.should_use_gpu(m, k, n), "nothing is less than any threshold but 0");
    }
    let scheduler = scheduler.threshold(usize::MAX);
    assert!(!scheduler.should_use_gpu(usize::MAX, usize::MAX, usize::MAX), "never is never");
}
