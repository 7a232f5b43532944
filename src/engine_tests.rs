//! The engine's promises: the order of submissions decides and nothing else does, steady state creates nothing, a buffer
//! in use is nobody else's, results arrive however they are asked for.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use crate::error::Error;
use crate::faults::{PATIENCE, Product, SHORT, eventually, open, with_engine};
use crate::gpu::GpuCompute;
use crate::ops::{self, Gelu};
use crate::pass::Pass;
use crate::result::{AsyncGpuResult, lock};
use crate::tensor::{DType, Tensor};

/// A state and two weights, for steps whose order shows in every bit.
struct Chain {
    state: Tensor,
    first: Tensor,
    second: Tensor,
}

const ROWS: usize = 6;
const WIDTH: usize = 24;

impl Chain {
    fn new(gpu: &GpuCompute) -> Chain {
        let wave = |count: usize, speed: f32| -> Vec<f32> { (0..count).map(|i| (i as f32 * speed).sin()).collect() };
        let upload = |rows, speed| gpu.tensor(&wave(rows * WIDTH, speed), &[rows, WIDTH]).unwrap();
        Chain { state: upload(ROWS, 0.3), first: upload(WIDTH, 0.7), second: upload(WIDTH, 1.1) }
    }

    /// state += gelu(state x first), with a scratch tensor that is dropped and used again.
    fn grow(&mut self, pass: &mut Pass) {
        for _ in 0..3 {
            let mut scratch = pass.tensor(&[ROWS, WIDTH]).unwrap();
            ops::matmul(pass, &self.state, &self.first, &mut scratch).unwrap();
            ops::gelu(pass, &mut scratch, Gelu::Tanh).unwrap();
            ops::add(pass, &mut self.state, &scratch).unwrap();
        }
    }

    /// state = softmax(state x second).
    fn shrink(&mut self, pass: &mut Pass) {
        let mut scratch = pass.tensor(&[ROWS, WIDTH]).unwrap();
        ops::matmul(pass, &self.state, &self.second, &mut scratch).unwrap();
        ops::softmax(pass, &mut scratch).unwrap();
        pass.copy(&scratch, &mut self.state).unwrap();
    }

    fn bits(&self, gpu: &GpuCompute) -> Vec<u32> {
        gpu.read(&self.state).unwrap()
    }

    /// Shrinks and grows alternately, a submission each, reading every state on its way.
    fn run(gpu: &GpuCompute) -> Vec<Vec<u32>> {
        let mut chain = Chain::new(gpu);
        let mut step = |i: usize| {
            let mut pass = gpu.pass();
            if i.is_multiple_of(2) {
                chain.shrink(&mut pass)
            } else {
                chain.grow(&mut pass)
            }
            let state = pass.read(&chain.state).unwrap();
            pass.submit().unwrap();
            state
        };
        let results: Vec<AsyncGpuResult<Vec<u32>>> = (0..12).map(&mut step).collect();
        results.into_iter().map(|result| result.wait(PATIENCE).unwrap()).collect()
    }
}

#[test]
fn passes_run_in_the_order_they_are_submitted() {
    with_engine(
        |_| (),
        |gpu, _| {
            let mut serial = Chain::new(&gpu);
            for step in [Chain::shrink, Chain::grow] {
                let mut pass = gpu.pass();
                step(&mut serial, &mut pass);
                pass.submit().unwrap();
                gpu.wait_idle().unwrap();
            }
            let right = serial.bits(&gpu);

            let mut chain = Chain::new(&gpu);
            let (mut recorded_first, mut recorded_second) = (gpu.pass(), gpu.pass());
            chain.grow(&mut recorded_first);
            chain.shrink(&mut recorded_second);
            recorded_second.submit().unwrap();
            // The buffers that this gave back are written over before the first pass runs.
            drop(gpu.tensor(&[f32::NAN; ROWS * WIDTH], &[ROWS, WIDTH]).unwrap());
            recorded_first.submit().unwrap();
            assert_eq!(chain.bits(&gpu), right);
        },
    );
}

#[test]
fn neither_depth_nor_the_way_of_parameters_changes_a_bit() {
    with_engine(
        |options| options.depth = 3,
        |gpu, _| {
            let right = Chain::run(&gpu);
            assert_ne!(right[10], right[11]);
            for depth in [1, 2, 8] {
                let (other, _) = open(|options| options.depth = depth).unwrap();
                assert_eq!(Chain::run(&other), right, "depth {depth}");
            }
            let (uniform, _) = open(|options| options.immediates = false).unwrap();
            assert_eq!(Chain::run(&uniform), right, "parameters in uniform buffers");
        },
    );
}

#[test]
fn steady_state_creates_nothing_and_uploads_nothing() {
    with_engine(
        |_| (),
        |gpu, _| {
            let mut chain = Chain::new(&gpu);
            let mut step = || {
                let mut pass = gpu.pass();
                // Two scratch tensors at once, given back in the order that a stack would swap.
                let spare = pass.tensor(&[ROWS, WIDTH]).unwrap();
                chain.grow(&mut pass);
                drop(spare);
                chain.shrink(&mut pass);
                let result = pass.read::<f32>(&chain.state).unwrap();
                pass.submit().unwrap();
                result.wait(PATIENCE).unwrap();
                gpu.stats()
            };
            let first = step();
            let second = step();
            let created = |s: crate::Stats| (s.buffers_created, s.bind_groups_created, s.pipelines_created);
            assert_eq!(created(second), created(first));
            assert_eq!(second.bytes_uploaded, first.bytes_uploaded);
            assert_eq!(second.submits, first.submits + 1);
        },
    );
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_recorded() {
    with_engine(
        |_| (),
        |gpu, script| {
            let (other, _) = open(|_| ()).unwrap();
            let here = || gpu.zeros(&[4, 4]).unwrap();
            let (a, b, foreign) = (here(), here(), other.zeros(&[4, 4]).unwrap());
            let mut pass = gpu.pass();

            let alias = ops::matmul(&mut pass, &a, &b, &mut a.clone());
            assert!(matches!(alias, Err(Error::Alias { op: "matmul", first: "x", second: "out" })), "{alias:?}");
            assert!(matches!(pass.copy(&a, &mut a.clone()), Err(Error::Alias { .. })));

            let outcome = ops::matmul(&mut pass, &a, &foreign, &mut here());
            assert!(matches!(outcome, Err(Error::ForeignBuffer { op: "matmul" })), "{outcome:?}");
            assert!(matches!(pass.copy(&foreign, &mut here()), Err(Error::ForeignBuffer { .. })));
            assert!(matches!(pass.copy(&a, &mut foreign.clone()), Err(Error::ForeignBuffer { .. })));
            assert!(matches!(pass.read::<f32>(&foreign), Err(Error::ForeignBuffer { .. })));

            let wide = gpu.zeros(&[4, 5]).unwrap();
            let outcome = ops::matmul(&mut pass, &a, &b, &mut wide.clone());
            assert!(matches!(outcome, Err(Error::Shape { op: "matmul", .. })), "{outcome:?}");
            assert!(matches!(ops::add(&mut pass, &mut here(), &wide), Err(Error::Shape { .. })));
            assert!(matches!(pass.copy(&wide, &mut here()), Err(Error::Shape { .. })));
            assert!(matches!(gpu.tensor(&[1.0], &[2]), Err(Error::Shape { .. })));

            pass.submit().unwrap();
            assert_eq!(script.submits(), 0, "nothing was recorded");
        },
    );
}

#[test]
fn two_wrappers_of_one_buffer_are_an_alias() {
    with_engine(
        |_| (),
        |gpu, _| {
            let owned = gpu.zeros(&[4, 4]).unwrap();
            let buffer = owned.lease().unwrap().buffer.clone();
            let wrap = || Tensor::from_buffer(buffer.clone(), 0, &[4, 4], DType::F32).unwrap();
            let outcome = ops::add(&mut gpu.pass(), &mut wrap(), &wrap());
            assert!(matches!(outcome, Err(Error::Alias { .. })), "{outcome:?}");
        },
    );
}

#[test]
fn a_result_is_pending_then_there_once() {
    fn is_send<T: Send>(_: &T) {}
    with_engine(
        |_| (),
        |gpu, script| {
            let product = Product::new(&gpu, 1);
            script.close_gate();
            let mut asked = product.submit(&gpu).unwrap();
            let awaited = product.submit(&gpu).unwrap();
            is_send(&asked);
            assert!(!asked.is_ready());
            assert!(asked.try_get().is_none());
            let impatient = product.submit(&gpu).unwrap().wait(SHORT);
            assert!(matches!(impatient, Err(Error::Timeout { waited: SHORT })), "{impatient:?}");
            script.open_gate();
            product.check(&gpu);
            assert!(asked.is_ready(), "results arrive in order");
            let value = asked.try_get().unwrap().unwrap();
            assert_eq!(pollster::block_on(awaited).unwrap(), value);
            assert!(matches!(asked.wait(PATIENCE), Err(Error::AlreadyTaken)));
        },
    );
}

/// A waker that does something on the thread that completes the result.
struct OnWake(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Wake for OnWake {
    fn wake(self: Arc<Self>) {
        if let Some(action) = lock(&self.0).take() {
            action();
        }
    }
}

/// Polls once, so that `action` runs when the result arrives.
pub(crate) fn when_ready<T>(result: &mut AsyncGpuResult<T>, action: impl FnOnce() + Send + 'static) {
    let waker = Waker::from(Arc::new(OnWake(Mutex::new(Some(Box::new(action))))));
    assert!(matches!(std::pin::Pin::new(result).poll(&mut Context::from_waker(&waker)), Poll::Pending));
}

#[test]
fn a_waker_may_submit_or_panic() {
    with_engine(
        |options| options.depth = 2,
        |gpu, script| {
            let product = Arc::new(Product::new(&gpu, 2));
            script.close_gate();
            let (mut first, mut second) = (product.submit(&gpu).unwrap(), product.submit(&gpu).unwrap());
            when_ready(&mut first, || panic!("an injected panic"));
            let submitted = Arc::new(Mutex::new(None));
            let (to, with, on) = (Arc::clone(&submitted), Arc::clone(&product), gpu.clone());
            when_ready(&mut second, move || *lock(&to) = Some(with.submit(&on)));
            script.open_gate();
            product.expect(first);
            product.expect(second);
            eventually("the waker has submitted", || lock(&submitted).is_some());
            product.expect(lock(&submitted).take().unwrap().unwrap());
        },
    );
}

#[test]
fn a_waker_may_drop_the_last_handle() {
    with_engine(
        |_| (),
        |gpu, script| {
            let product = Product::new(&gpu, 3);
            script.close_gate();
            let mut first = product.submit(&gpu).unwrap();
            let second = product.submit(&gpu).unwrap();
            let dropped = Arc::new(AtomicBool::new(false));
            let flag = Arc::clone(&dropped);
            when_ready(&mut first, move || {
                drop(gpu);
                flag.store(true, Ordering::SeqCst);
            });
            script.open_gate();
            eventually("the engine is dropped", || dropped.load(Ordering::SeqCst));
            product.expect(first);
            product.expect(second);
        },
    );
}

#[test]
fn dropping_the_engine_finishes_what_is_in_flight() {
    with_engine(
        |_| (),
        |gpu, _| {
            let product = Product::new(&gpu, 4);
            let results: Vec<_> = (0..3).map(|_| product.submit(&gpu).unwrap()).collect();
            drop(gpu);
            for result in results {
                assert!(result.is_ready());
                product.expect(result);
            }
        },
    );
}

#[test]
fn dropping_a_stuck_engine_returns_and_tells_the_waiters() {
    with_engine(
        |options| options.deadline = SHORT,
        |gpu, script| {
            let product = Product::new(&gpu, 5);
            script.close_gate();
            let results: Vec<_> = (0..3).map(|_| product.submit(&gpu).unwrap()).collect();
            drop(gpu);
            for result in results {
                assert!(matches!(result.wait(PATIENCE), Err(Error::Timeout { .. })));
            }
        },
    );
}

#[test]
fn many_threads_may_submit() {
    with_engine(
        |options| options.depth = 2,
        |gpu, script| {
            std::thread::scope(|scope| {
                for seed in 0..4 {
                    let gpu = &gpu;
                    scope.spawn(move || (0..25).for_each(|i| Product::new(gpu, 100 * seed + i).check(gpu)));
                }
            });
            assert!(script.most_in_flight() <= 2);
            assert_eq!(gpu.pool_stats().live_buffers, 0);
        },
    );
}

#[test]
fn the_pool_counts_trims_and_keeps_its_budget() {
    with_engine(
        |_| (),
        |gpu, _| {
            let pool = gpu.pool().unwrap();
            let tensor = gpu.zeros(&[256]).unwrap();
            let stats = pool.stats();
            assert_eq!((stats.hits, stats.misses, stats.live_buffers, stats.live_bytes), (0, 1, 1, 1024));
            drop(tensor);
            let stats = pool.stats();
            assert_eq!((stats.live_buffers, stats.live_bytes, stats.idle_buffers, stats.idle_bytes), (0, 0, 1, 1024));
            let again = gpu.zeros(&[256]).unwrap();
            let stats = pool.stats();
            assert_eq!((stats.hits, stats.misses, stats.idle_buffers, stats.idle_bytes), (1, 1, 0, 0));
            assert_eq!(stats.peak_bytes, 1024);

            // What is idle makes room; what is live does not.
            drop(gpu.zeros(&[1024]).unwrap());
            pool.set_budget(Some(1024 + 8192));
            let large = gpu.zeros(&[2048]).unwrap();
            assert_eq!((pool.stats().live_bytes, pool.stats().idle_bytes), (1024 + 8192, 0));
            assert!(matches!(gpu.zeros(&[64]), Err(Error::OutOfMemory { bytes: 256, .. })));
            assert_eq!(pool.stats().live_buffers, 2);
            drop((again, large));
            gpu.zeros(&[64]).unwrap();
            assert!(pool.stats().peak_bytes <= 1024 + 8192);
        },
    );
}

#[test]
fn trimming_frees_what_bind_groups_held() {
    with_engine(
        |_| (),
        |gpu, _| {
            let product = Product::new(&gpu, 6);
            product.check(&gpu);
            let kept = || gpu.engine().unwrap().cache.bind_groups();
            assert_eq!(kept(), 1);
            gpu.pool().unwrap().trim();
            assert_eq!((gpu.pool_stats().idle_buffers, gpu.pool_stats().idle_bytes), (0, 0));
            assert_eq!(kept(), 0, "a bind group keeps its buffers alive");
            product.check(&gpu);
        },
    );
}

#[test]
fn a_chain_of_ops_lives_in_few_buffers() {
    with_engine(
        |_| (),
        |gpu, _| {
            let chain = Chain::new(&gpu);
            let before = gpu.stats().buffers_created;
            let mut pass = gpu.pass();
            let mut x = pass.tensor(&[ROWS, WIDTH]).unwrap();
            pass.copy(&chain.state, &mut x).unwrap();
            for _ in 0..20 {
                let mut y = pass.tensor(&[ROWS, WIDTH]).unwrap();
                ops::matmul(&mut pass, &x, &chain.first, &mut y).unwrap();
                ops::softmax(&mut pass, &mut y).unwrap();
                x = y;
            }
            let result = pass.read::<f32>(&x).unwrap();
            pass.submit().unwrap();
            assert!(result.wait(PATIENCE).unwrap().iter().all(|v| v.is_finite()));
            let created = gpu.stats().buffers_created - before;
            // Two take turns, one is the copy's and stays with it, one is the readback's.
            assert!(created <= 4, "{created} buffers for 20 ops");
        },
    );
}

#[test]
fn a_buffer_that_an_unsubmitted_pass_uses_is_nobody_elses() {
    with_engine(
        |_| (),
        |gpu, _| {
            let id = |tensor: &Tensor| tensor.lease().unwrap().id;
            let ones = || gpu.tensor(&[1.0; 16], &[4, 4]).unwrap();
            let sum = |pass: &mut Pass| {
                let (mut x, y) = (ones(), ones());
                ops::add(pass, &mut x, &y).unwrap();
                (pass.read::<f32>(&x).unwrap(), [id(&x), id(&y)])
            };
            let mut pass = gpu.pass();
            let (result, used) = sum(&mut pass);
            let others: Vec<Tensor> = (0..4).map(|_| gpu.tensor(&[9.0; 16], &[4, 4]).unwrap()).collect();
            assert!(others.iter().all(|other| !used.contains(&id(other))));
            drop(others);
            pass.submit().unwrap();
            assert_eq!(result.wait(PATIENCE).unwrap(), [2.0; 16]);
            assert!(used.contains(&id(&ones())), "it is free again");

            let mut pass = gpu.pass();
            let (result, used) = sum(&mut pass);
            drop(pass);
            assert!(matches!(result.wait(PATIENCE), Err(Error::NotSubmitted)));
            assert!(used.contains(&id(&ones())), "dropping the pass frees it as well");
        },
    );
}

#[test]
fn a_bind_group_belongs_to_one_place_in_one_buffer() {
    with_engine(
        |_| (),
        |gpu, _| {
            let (whole, ones) =
                (gpu.tensor(&[1.0; 256], &[64, 4]).unwrap(), gpu.tensor(&[1.0; 256], &[64, 4]).unwrap());
            let part = |offset, rows| {
                Tensor::on_device(Arc::clone(whole.lease().unwrap()), offset, &[rows, 4], DType::F32).unwrap()
            };
            for (offset, rows) in [(0, 1), (256, 1), (256, 1), (0, 64)] {
                let mut pass = gpu.pass();
                ops::add(&mut pass, &mut part(offset, rows), &ones.first_rows(rows).unwrap()).unwrap();
                pass.submit().unwrap();
            }
            let row = |i: usize| [2.0, 3.0, 4.0f32][usize::from(i == 0) + 2 * usize::from(i == 16)];
            let expected: Vec<f32> = (0..64).flat_map(|i| [row(i); 4]).collect();
            assert_eq!(gpu.read::<f32>(&whole).unwrap(), expected);
            assert_eq!(gpu.read::<f32>(&part(256, 2)).unwrap(), expected[64..72]);
        },
    );
}

#[test]
fn a_plan_keeps_its_scratch() {
    with_engine(
        |_| (),
        |gpu, _| {
            let chain = Chain::new(&gpu);
            let mut pass = gpu.pass();
            let mut scratch = pass.tensor(&[ROWS, WIDTH]).unwrap();
            let used = scratch.lease().unwrap().id;
            ops::matmul(&mut pass, &chain.state, &chain.first, &mut scratch).unwrap();
            drop(scratch);
            let plan = pass.into_plan();
            let others: Vec<Tensor> = (0..4).map(|_| gpu.zeros(&[ROWS, WIDTH]).unwrap()).collect();
            assert!(others.iter().all(|other| other.lease().unwrap().id != used));
            plan.replay::<f32>(&chain.state).unwrap().wait(PATIENCE).unwrap();
            assert!(others.iter().all(|other| gpu.read::<f32>(other).unwrap() == [0.0; ROWS * WIDTH]));
        },
    );
}

#[test]
fn idle_is_when_the_last_submission_is_done() {
    with_engine(
        |_| (),
        |gpu, script| {
            let ones = || gpu.tensor(&[1.0; 16], &[4, 4]).unwrap();
            let (mut x, y) = (ones(), ones());
            let mut pass = gpu.pass();
            ops::add(&mut pass, &mut x, &y).unwrap();
            script.close_gate();
            // Nothing of it is read back: the fence alone says when it is done.
            pass.submit().unwrap();
            std::thread::scope(|scope| {
                let waiter = scope.spawn(|| gpu.wait_idle());
                std::thread::sleep(SHORT);
                assert!(!waiter.is_finished());
                script.open_gate();
                waiter.join().unwrap().unwrap();
            });
        },
    );
}
