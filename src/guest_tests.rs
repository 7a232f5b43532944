//! Engines without a thread of their own: results arrive through whoever polls or waits, faults do too, and what a caller's
//! buffers and kernels leave in the caches goes when they go.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::faults::{MapFault, PATIENCE, Product, SHORT, with_engine};
use crate::gpu::{GpuCompute, Options};
use crate::ops;
use crate::own_kernel::OwnKernel;
use crate::queue::Poller;
use crate::result::{AsyncGpuResult, lock};
use crate::tensor::{DType, Tensor};

fn unpolled(options: &mut Options) {
    options.poller = Some(Poller::Caller);
}

/// A task that was woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn poll_once(result: &mut AsyncGpuResult<Vec<f32>>, flag: &Arc<Flag>) -> Poll<crate::Result<Vec<f32>>> {
    let waker = Waker::from(Arc::clone(flag));
    std::pin::Pin::new(result).poll(&mut Context::from_waker(&waker))
}

/// Polls the device as its owner does.
fn owner_polls(gpu: &GpuCompute, mut until: impl FnMut() -> bool) {
    let start = Instant::now();
    while !until() {
        assert!(start.elapsed() < PATIENCE, "never happened");
        gpu.device().unwrap().poll(wgpu::PollType::Poll).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_task_goes_on_when_the_owner_polls() {
    with_engine(unpolled, |gpu, script| {
        let product = Product::new(&gpu, 1);
        let mut result = product.submit(&gpu).unwrap();
        let flag = Arc::new(Flag::default());
        assert!(poll_once(&mut result, &flag).is_pending() || script.polls() == 0);
        owner_polls(&gpu, || flag.0.load(Ordering::SeqCst) || result.is_ready());
        assert!(matches!(poll_once(&mut result, &flag), Poll::Ready(Ok(_))));
        assert_eq!(script.polls(), 0, "somebody polled beside the owner");
    });
}

#[test]
fn a_result_that_is_awaited_before_its_submission_arrives() {
    with_engine(unpolled, |gpu, _| {
        let product = Product::new(&gpu, 2);
        let mut pass = gpu.pass();
        let mut result = product.record(&mut pass).unwrap();
        let flag = Arc::new(Flag::default());
        assert!(poll_once(&mut result, &flag).is_pending());
        pass.submit().unwrap();
        owner_polls(&gpu, || flag.0.load(Ordering::SeqCst));
        assert!(matches!(poll_once(&mut result, &flag), Poll::Ready(Ok(_))));
    });
}

#[test]
fn a_task_behind_an_abandoned_result_is_woken() {
    with_engine(unpolled, |gpu, _| {
        let product = Product::new(&gpu, 3);
        let first = product.submit(&gpu).unwrap();
        let mut second = product.submit(&gpu).unwrap();
        drop(first);
        let flag = Arc::new(Flag::default());
        let mut outcome = poll_once(&mut second, &flag);
        owner_polls(&gpu, || {
            if outcome.is_pending() && flag.0.swap(false, Ordering::SeqCst) {
                outcome = poll_once(&mut second, &flag);
            }
            outcome.is_ready()
        });
        assert!(matches!(outcome, Poll::Ready(Ok(_))));
    });
}

/// Polls another result where it is woken, which is inside of completing this one.
struct Inline(std::sync::Mutex<Option<AsyncGpuResult<Vec<f32>>>>, AtomicBool);

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        if let Some(other) = &mut *lock(&self.0) {
            other.is_ready();
            self.1.store(true, Ordering::SeqCst);
        }
    }
}

#[test]
fn a_waker_may_look_at_another_result() {
    with_engine(unpolled, |gpu, _| {
        let product = Product::new(&gpu, 4);
        let mut first = product.submit(&gpu).unwrap();
        let second = product.submit(&gpu).unwrap();
        let inline = Arc::new(Inline(std::sync::Mutex::new(Some(second)), AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&inline));
        let mut outcome = std::pin::Pin::new(&mut first).poll(&mut Context::from_waker(&waker));
        owner_polls(&gpu, || {
            if outcome.is_pending() {
                outcome = std::pin::Pin::new(&mut first).poll(&mut Context::from_waker(&waker));
            }
            outcome.is_ready()
        });
        let second = lock(&inline.0).take().unwrap();
        product.expect(second);
    });
}

#[test]
fn a_wait_polls_and_so_do_many() {
    with_engine(unpolled, |gpu, script| {
        let product = Product::new(&gpu, 5);
        product.check(&gpu);
        assert!(script.polls() > 0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..20).for_each(|_| product.check(&gpu)));
            }
        });
        gpu.wait_idle().unwrap();
        // More than are in flight at most: submitting makes room by itself.
        let results: Vec<_> = (0..10).map(|_| product.submit(&gpu).unwrap()).collect();
        results.into_iter().rev().for_each(|result| product.expect(result));
    });
}

#[test]
fn a_task_waits_for_room_while_the_owner_polls() {
    with_engine(unpolled, |gpu, script| {
        let product = Product::new(&gpu, 9);
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&flag));
        let mut results = Vec::new();
        for _ in 0..12 {
            let mut pass = gpu.pass();
            results.push(product.record(&mut pass).unwrap());
            let mut submitting = Box::pin(pass.submit_async());
            owner_polls(&gpu, || {
                submitting.as_mut().poll(&mut Context::from_waker(&waker)).map(|r| r.unwrap()).is_ready()
            });
        }
        owner_polls(&gpu, || results.iter().all(AsyncGpuResult::is_ready));
        assert_eq!(script.polls(), 0, "somebody polled beside the owner");
        results.into_iter().for_each(|result| product.expect(result));
    });
}

#[test]
fn a_task_that_finds_no_room_learns_of_the_deadline() {
    let short = |options: &mut Options| {
        unpolled(options);
        (options.deadline, options.depth) = (SHORT, 1);
    };
    with_engine(short, |gpu, script| {
        let product = Product::new(&gpu, 10);
        lock(&script.map_faults).push_back(MapFault::Silent);
        let stuck = product.submit(&gpu).unwrap();
        let mut pass = gpu.pass();
        let _result = product.record(&mut pass).unwrap();
        let mut submitting = Box::pin(pass.submit_async());
        let waker = Waker::from(Arc::new(Flag::default()));
        assert!(submitting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending(), "the queue is full");
        std::thread::sleep(SHORT + SHORT);
        let outcome = submitting.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(matches!(outcome, Poll::Ready(Err(Error::Timeout { .. }))), "{outcome:?}");
        assert!(matches!(stuck.wait(PATIENCE), Err(Error::Timeout { .. })));
    });
}

#[test]
fn results_outlive_their_engine() {
    with_engine(unpolled, |gpu, _| {
        let product = Product::new(&gpu, 6);
        let result = product.submit(&gpu).unwrap();
        drop(gpu);
        product.expect(result);
    });
}

#[test]
fn faults_reach_whoever_waits() {
    with_engine(unpolled, |gpu, script| {
        let product = Product::new(&gpu, 7);
        lock(&script.map_faults).push_back(MapFault::Refused);
        assert!(matches!(product.submit(&gpu).unwrap().wait(PATIENCE), Err(Error::Validation { .. })));
        product.check(&gpu);
        let result = product.submit(&gpu).unwrap();
        script.close_gate();
        assert!(matches!(result.wait(SHORT), Err(Error::Timeout { .. })));
        script.open_gate();
        product.check(&gpu);
        let result = product.submit(&gpu).unwrap();
        script.poll_panics.store(true, Ordering::SeqCst);
        assert!(matches!(result.wait(PATIENCE), Err(Error::DeviceLost { .. })));
        assert!(matches!(product.submit(&gpu), Err(Error::DeviceLost { .. })), "a failed engine takes no more work");
    });
}

#[test]
fn a_stuck_submission_ends_at_the_deadline() {
    let short = |options: &mut Options| {
        unpolled(options);
        options.deadline = SHORT;
    };
    with_engine(short, |gpu, script| {
        let product = Product::new(&gpu, 8);
        // The fence may be reported by any call; these two maps never are.
        lock(&script.map_faults).extend([MapFault::Silent, MapFault::Silent]);
        script.close_gate();
        let results: Vec<_> = (0..2).map(|_| product.submit(&gpu).unwrap()).collect();
        for result in results {
            assert!(matches!(result.wait(PATIENCE), Err(Error::Timeout { waited }) if waited == SHORT));
        }
        script.open_gate();
        product.check(&gpu);
    });
}

fn buffer(gpu: &GpuCompute, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    let descriptor = wgpu::BufferDescriptor { label: None, size: 1024, usage, mapped_at_creation: false };
    gpu.device().unwrap().create_buffer(&descriptor)
}

#[test]
fn what_a_callers_buffer_left_in_the_cache_goes_with_it() {
    with_engine(unpolled, |gpu, _| {
        let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let run = |tensor: &mut Tensor| {
            let mut pass = gpu.pass();
            ops::relu(&mut pass, tensor).unwrap();
            pass.submit().unwrap();
        };
        let kept = &mut Tensor::from_buffer(buffer(&gpu, storage), 0, &[4], DType::F32).unwrap();
        run(kept);
        let groups = || gpu.engine().unwrap().cache.bind_groups();
        let before = groups();
        for _ in 0..3 {
            let mut tensor = Tensor::from_buffer(buffer(&gpu, storage), 0, &[4], DType::F32).unwrap();
            run(&mut tensor);
            assert_eq!(groups(), before + 1);
        }
        gpu.wait_idle().unwrap();
        assert_eq!(groups(), before);
        // And what is kept is found again.
        let created = gpu.stats().bind_groups_created;
        run(kept);
        assert_eq!(gpu.stats().bind_groups_created, created);
    });
}

#[test]
fn a_callers_buffer_that_cannot_be_copied_is_refused() {
    with_engine(unpolled, |gpu, _| {
        let of = |usage| Tensor::from_buffer(buffer(&gpu, usage), 0, &[4], DType::F32).unwrap();
        let (bare, mut target) = (of(wgpu::BufferUsages::STORAGE), gpu.zeros(&[4]).unwrap());
        let mut pass = gpu.pass();
        assert!(matches!(pass.read::<f32>(&bare), Err(Error::Shape { op: "read", .. })));
        assert!(matches!(pass.copy(&bare, &mut target), Err(Error::Shape { op: "copy", .. })));
        assert!(matches!(
            pass.copy(&target, &mut of(wgpu::BufferUsages::STORAGE)),
            Err(Error::Shape { op: "copy", .. })
        ));
    });
}

/// A kernel that adds `a` to every element.
const SHIFT: &str = "//! op: shift
/// Invocations. Tune: 32u, 64u
const WG = 32u;
const_assert WG <= 64u;
struct Params {
    n: u32,
    a: f32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read_write> x: array<f32>;

@compute @workgroup_size(WG)
fn shift(@builtin(global_invocation_id) id: vec3u) {
    if id.x < p.n { x[id.x] += p.a; }
}
";

#[test]
fn the_pipelines_of_a_kernel_go_with_its_last_handle() {
    let uniform = |options: &mut Options| options.immediates = false;
    with_engine(uniform, |gpu, _| {
        let mut x = gpu.tensor(&[1.0; 40], &[40]).unwrap();
        let pipelines = || gpu.engine().unwrap().cache.pipelines();
        let before = pipelines();
        let kernel = OwnKernel::new("shift.wgsl", SHIFT).unwrap();
        for wg in [32, 64, 32] {
            let mut pass = gpu.pass();
            kernel
                .call()
                .write("x", &mut x)
                .param("n", 40u32)
                .param("a", 0.5)
                .constant("WG", wg)
                .record(&mut pass, [2, 1, 1])
                .unwrap();
            pass.submit().unwrap();
        }
        assert_eq!(gpu.read::<f32>(&x).unwrap(), [2.5; 40]);
        assert_eq!(pipelines(), before + 2);
        let other = kernel.clone();
        drop(kernel);
        assert_eq!(pipelines(), before + 2);
        drop(other);
        assert_eq!(pipelines(), before);
        // A knob that the kernel's own assertion refuses.
        let kernel = OwnKernel::new("shift.wgsl", SHIFT).unwrap();
        let mut pass = gpu.pass();
        let call = kernel.call().write("x", &mut x).param("n", 40u32).param("a", 0.5).constant("WG", 128);
        let refused = call.record(&mut pass, [1, 1, 1]).unwrap_err();
        let (text, place) = (refused.to_string(), "shift.wgsl:4");
        assert!(matches!(refused, Error::Shader(_)) && text.contains("const_assert") && text.contains(place), "{text}");
    });
}
