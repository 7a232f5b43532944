//! One test for each fault a device can have, by its number in the table of faults. In every one of them each waiter is
//! told, once, and nothing panics or hangs; where the device survives, the next product is right.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::engine_tests::when_ready;
use crate::error::Error;
use crate::faults::{MapFault, PATIENCE, Product, SHORT, eventually, refused, with_engine};
use crate::gpu::GpuCompute;
use crate::kernel::{Edit, File};
use crate::ops;
use crate::result::{AsyncGpuResult, lock};

fn out_of_memory() -> Error {
    Error::OutOfMemory { bytes: 1, context: "injected".to_owned() }
}

fn live(gpu: &GpuCompute) -> u64 {
    gpu.pool_stats().live_bytes
}

/// Each of `results` is there soon, is `DeviceLost`, and is there once.
fn expect_lost(results: Vec<AsyncGpuResult<Vec<f32>>>) {
    let start = Instant::now();
    for mut result in results {
        eventually("a result", || result.is_ready());
        let outcome = result.try_get();
        assert!(matches!(outcome, Some(Err(Error::DeviceLost { .. }))), "{outcome:?}");
        assert!(result.try_get().is_none());
        assert!(matches!(pollster::block_on(result), Err(Error::AlreadyTaken)));
    }
    // It takes milliseconds; the bound only tells it from a deadline.
    assert!(start.elapsed() < Duration::from_secs(5));
}

fn expect_refusals(gpu: &GpuCompute, product: &Product) {
    let start = Instant::now();
    for _ in 0..3 {
        let outcome = product.submit(gpu);
        assert!(matches!(outcome, Err(Error::DeviceLost { .. })), "{outcome:?}");
        assert!(matches!(gpu.wait_idle(), Err(Error::DeviceLost { .. })));
    }
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn fault_03_create_buffer_refused_is_an_error_and_no_more() {
    with_engine(
        |_| (),
        |gpu, script| {
            lock(&script.buffer_errors).push_back(refused());
            let outcome = gpu.zeros(&[3]);
            assert!(matches!(outcome, Err(Error::Validation { .. })), "{outcome:?}");
            assert_eq!(live(&gpu), 0);

            // A staging buffer that cannot be had: the submission says so, and so do all its results.
            let product = Product::new(&gpu, 1);
            let before = live(&gpu);
            let mut pass = gpu.pass();
            // What is kept is copied.
            let results = [product.record(&mut pass).unwrap(), pass.read::<f32>(&product.a).unwrap()];
            lock(&script.buffer_errors).push_back(refused());
            assert!(matches!(pass.submit(), Err(Error::Validation { .. })));
            for result in results {
                assert!(matches!(result.wait(PATIENCE), Err(Error::Validation { .. })));
            }
            assert_eq!((script.submits(), live(&gpu)), (0, before));
            product.check(&gpu);
        },
    );
}

#[test]
fn fault_04_submit_refused_fails_the_job_and_nobody_waits_for_it() {
    with_engine(
        |_| (),
        |gpu, script| {
            let product = Product::new(&gpu, 2);
            let before = live(&gpu);
            let mut pass = gpu.pass();
            let results = [product.record(&mut pass).unwrap(), product.record(&mut pass).unwrap()];
            lock(&script.submit_errors).push_back(refused());
            assert!(matches!(pass.submit(), Err(Error::Validation { .. })));
            for result in results {
                assert!(matches!(result.wait(PATIENCE), Err(Error::Validation { .. })));
            }
            assert_eq!((live(&gpu), script.maps(), script.polls()), (before, 0, 0));
            product.check(&gpu);
        },
    );
}

#[test]
fn fault_05_out_of_memory_trims_and_tries_once_more() {
    with_engine(
        |_| (),
        |gpu, script| {
            drop(gpu.zeros(&[1000]).unwrap());
            assert!(gpu.pool_stats().idle_bytes > 0);
            lock(&script.buffer_errors).push_back(out_of_memory());
            drop(gpu.zeros(&[100_000]).unwrap());
            assert_eq!(gpu.pool_stats().idle_buffers, 1, "the first one was freed, the second came back");

            lock(&script.buffer_errors).extend([out_of_memory(), out_of_memory(), out_of_memory(), out_of_memory()]);
            assert!(matches!(gpu.zeros(&[1_000_000]), Err(Error::OutOfMemory { .. })));
            assert_eq!(gpu.pool_stats().live_buffers, 0);

            // What was let go while in flight is there once it is done.
            let product = Product::new(&gpu, 3);
            let result = product.submit(&gpu).unwrap();
            lock(&script.buffer_errors).extend([out_of_memory(), out_of_memory()]);
            drop(gpu.zeros(&[1_000_000]).unwrap());
            assert_eq!(script.taken(), 1, "it waited");
            drop(result);
            product.check(&gpu);
        },
    );
}

#[test]
fn fault_08_device_lost_with_work_in_flight_tells_every_waiter() {
    with_engine(
        |options| options.depth = 4,
        |gpu, script| {
            let product = Product::new(&gpu, 4);
            script.close_gate();
            let results = (0..4).map(|_| product.submit(&gpu).unwrap()).collect();
            script.lose("pulled out");
            expect_lost(results);
            assert_eq!(script.taken(), 0, "no callback was needed");
            expect_refusals(&gpu, &product);
        },
    );
}

#[test]
fn fault_08_device_lost_while_submission_blocks_ends_the_wait() {
    with_engine(
        |options| options.depth = 1,
        |gpu, script| {
            let product = Product::new(&gpu, 5);
            script.close_gate();
            let first = product.submit(&gpu).unwrap();
            std::thread::scope(|scope| {
                let second = scope.spawn(|| product.submit(&gpu));
                script.lose("pulled out");
                assert!(matches!(second.join().unwrap(), Err(Error::DeviceLost { .. })));
            });
            expect_lost(vec![first]);
        },
    );
}

#[test]
fn fault_08_device_lost_between_submission_and_queueing_leaves_nobody_behind() {
    with_engine(
        |_| (),
        |gpu, script| {
            let product = Product::new(&gpu, 6);
            script.close_gate();
            let first = product.submit(&gpu).unwrap();
            let mut pass = gpu.pass();
            let second = product.record(&mut pass).unwrap();
            // The poller gives up, and is gone, while the second submission is on its way into the queue.
            let (loser, told) = (Arc::clone(&script), Arc::new(AtomicBool::new(false)));
            let wait_for = Arc::clone(&told);
            *lock(&script.after_submit) = Some(Box::new(move || {
                loser.lose("pulled out");
                eventually("the first result", || wait_for.load(Ordering::SeqCst));
            }));
            let watcher = std::thread::spawn(move || {
                eventually("the first result", || first.is_ready());
                told.store(true, Ordering::SeqCst);
                first
            });
            assert!(matches!(pass.submit(), Err(Error::DeviceLost { .. })));
            expect_lost(vec![watcher.join().unwrap(), second]);
        },
    );
}

#[test]
fn fault_09_poll_panics_is_a_lost_device() {
    with_engine(
        |options| options.depth = 4,
        |gpu, script| {
            let product = Product::new(&gpu, 7);
            script.close_gate();
            let results = (0..3).map(|_| product.submit(&gpu).unwrap()).collect();
            script.poll_panics.store(true, Ordering::SeqCst);
            expect_lost(results);
            let polls = script.polls();
            expect_refusals(&gpu, &product);
            assert_eq!(script.polls(), polls, "a device that panicked is not polled again");
        },
    );
}

#[test]
fn fault_10_panic_while_reading_back_costs_that_result_alone() {
    with_engine(
        |_| (),
        |gpu, script| {
            let product = Product::new(&gpu, 8);
            let mut pass = gpu.pass();
            let (first, second) = (product.record(&mut pass).unwrap(), product.record(&mut pass).unwrap());
            script.take_panics.store(true, Ordering::SeqCst);
            pass.submit().unwrap();
            assert!(matches!(first.wait(PATIENCE), Err(Error::DeviceLost { .. })));
            product.expect(second);
            product.check(&gpu);
        },
    );
}

#[test]
fn fault_11_work_past_the_deadline_is_a_timeout_and_keeps_its_buffers_until_the_fence() {
    with_engine(
        |options| (options.deadline, options.depth) = (SHORT, 2),
        |gpu, script| {
            let product = Product::new(&gpu, 9);
            let before = live(&gpu);
            script.close_gate();
            let results = [product.submit(&gpu).unwrap(), product.submit(&gpu).unwrap()];
            // Both: who waits behind stuck work is stuck too.
            for result in results {
                let outcome = result.wait(PATIENCE);
                assert!(matches!(outcome, Err(Error::Timeout { waited: SHORT })), "{outcome:?}");
            }
            assert!(script.polls() > 2, "it was retried");
            assert!(live(&gpu) > before, "the device may still write to the readback buffers");
            assert!(matches!(product.submit(&gpu), Err(Error::Timeout { .. })), "the queue is full, and stuck");
            script.open_gate();
            eventually("the readback buffers return", || live(&gpu) == before);
            product.check(&gpu);
        },
    );
}

#[test]
fn fault_13_map_refused_fails_the_job_and_discards_the_buffer() {
    with_engine(
        |_| (),
        |gpu, script| {
            let product = Product::new(&gpu, 10);
            product.check(&gpu);
            let idle = gpu.pool_stats().idle_buffers;
            lock(&script.map_faults).push_back(MapFault::Refused);
            let result = product.submit(&gpu).unwrap();
            assert!(matches!(result.wait(PATIENCE), Err(Error::Validation { .. })));
            assert_eq!(gpu.pool_stats().idle_buffers, idle - 1);
            product.check(&gpu);
        },
    );
}

#[test]
fn fault_14_map_that_never_calls_back_is_a_timeout_and_holds_up_nothing() {
    with_engine(
        |options| options.deadline = SHORT,
        |gpu, script| {
            let product = Product::new(&gpu, 11);
            let before = live(&gpu);
            lock(&script.map_faults).push_back(MapFault::Silent);
            let result = product.submit(&gpu).unwrap();
            assert!(matches!(result.wait(PATIENCE), Err(Error::Timeout { .. })));
            eventually("the buffer is given up", || live(&gpu) == before);
            product.check(&gpu);
        },
    );
}

#[test]
fn fault_17_future_dropped_before_submit_reads_nothing() {
    with_engine(
        |_| (),
        |gpu, script| {
            let product = Product::new(&gpu, 12);
            let before = live(&gpu);
            let mut pass = gpu.pass();
            drop(product.record(&mut pass).unwrap());
            pass.submit().unwrap();
            assert_eq!((script.submits(), script.maps()), (1, 0), "the commands run, the readback does not");
            assert_eq!(live(&gpu), before);

            // With nothing else to do, nothing is submitted.
            let mut pass = gpu.pass();
            drop(pass.read::<f32>(&product.a).unwrap());
            pass.submit().unwrap();
            assert_eq!(script.submits(), 1);

            let mut pass = gpu.pass();
            let result = product.record(&mut pass).unwrap();
            drop(pass);
            assert!(matches!(result.wait(PATIENCE), Err(Error::NotSubmitted)));
            assert_eq!((script.submits(), live(&gpu)), (1, before));
            product.check(&gpu);
        },
    );
}

#[test]
fn fault_18_future_dropped_after_submit_gives_its_buffer_back_after_the_fence() {
    with_engine(
        |_| (),
        |gpu, script| {
            let (product, other) = (Product::new(&gpu, 13), Product::new(&gpu, 14));
            let before = live(&gpu);
            script.close_gate();
            drop(product.submit(&gpu).unwrap());
            let result = other.submit(&gpu).unwrap();
            let readback = gpu.pool_stats().live_buffers;
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(gpu.pool_stats().live_buffers, readback);
            assert!(live(&gpu) > before);
            script.open_gate();
            other.expect(result);
            eventually("the buffer returns", || live(&gpu) == before);
        },
    );
}

#[test]
fn fault_22_backpressure_blocks_at_the_depth_and_loses_nothing() {
    with_engine(
        |options| options.depth = 2,
        |gpu, script| {
            let products: Vec<Product> = (0..8).map(|seed| Product::new(&gpu, seed)).collect();
            script.close_gate();
            std::thread::scope(|scope| {
                let submitter = scope.spawn(|| products.iter().map(|p| p.submit(&gpu).unwrap()).collect::<Vec<_>>());
                eventually("two submissions", || script.submits() == 2);
                std::thread::sleep(Duration::from_millis(100));
                assert_eq!(script.submits(), 2, "the third waits for room");
                script.open_gate();
                for (product, result) in products.iter().zip(submitter.join().unwrap()) {
                    product.expect(result);
                }
            });
            assert_eq!(script.submits(), 8);
            assert!(script.most_in_flight() <= 2, "{} in flight", script.most_in_flight());
        },
    );
}

#[test]
fn the_deadline_runs_from_the_last_completion_or_from_the_first_work() {
    const DEADLINE: Duration = Duration::from_secs(2);
    with_engine(
        |options| (options.deadline, options.depth) = (DEADLINE, 4),
        |gpu, script| {
            let product = Product::new(&gpu, 15);
            product.check(&gpu);
            // Nothing to do is not slow work.
            std::thread::sleep(DEADLINE + SHORT);
            script.close_gate();
            let results = (0..3).map(|_| product.submit(&gpu).unwrap());
            for mut result in results.collect::<Vec<_>>() {
                // Together they wait for longer than the deadline, each of them for less.
                let gate = Arc::clone(&script);
                when_ready(&mut result, move || gate.close_gate());
                std::thread::sleep(DEADLINE * 2 / 5);
                script.open_gate();
                product.expect(result);
            }
            script.open_gate();
        },
    );
}

#[test]
fn a_kernel_that_does_not_compile_is_an_error_and_no_more() {
    with_engine(
        |_| (),
        |gpu, _| {
            let product = Product::new(&gpu, 16);
            let kernel = &crate::kernels::relu::KERNEL;
            let at = kernel.source.rfind("max(").unwrap();
            let edit =
                Edit { file: File::Kernel(kernel.index), span: at..at + 3, text: "nothing_of_this_name".to_owned() };
            gpu.engine().unwrap().cache.set_edit(edit);
            let mut x = gpu.zeros(&[4, 4]).unwrap();
            let outcome = ops::relu(&mut gpu.pass(), &mut x);
            assert!(matches!(outcome, Err(Error::Validation { .. })), "{outcome:?}");
            product.check(&gpu);
        },
    );
}

#[test]
fn zeros_are_zero_in_a_buffer_that_was_used() {
    with_engine(
        |_| (),
        |gpu, _| {
            drop(gpu.tensor(&[1.0; 250], &[25, 10]).unwrap());
            let zeros = gpu.zeros(&[25, 10]).unwrap();
            assert_eq!(gpu.pool_stats().hits, 1);
            assert_eq!(gpu.read::<f32>(&zeros).unwrap(), [0.0; 250]);
        },
    );
}
