//! What is read back without a copy: the buffer is the host's until it lets go, and nobody computes in it meanwhile.

use crate::faults::{MapFault, PATIENCE, with_engine};
use crate::gpu::GpuCompute;
use crate::ops;
use crate::readback::Readback;
use crate::result::{AsyncGpuResult, lock};
use crate::tensor::Tensor;

const COUNT: usize = 3 * 1024;

/// Whether tensors can be mapped here; said aloud where they cannot.
fn maps(gpu: &GpuCompute) -> bool {
    let maps = gpu.zeros(&[1]).unwrap().lease().unwrap().buffer.usage().contains(wgpu::BufferUsages::MAP_READ);
    if !maps {
        eprintln!("SKIPPED, not passed: on this adapter tensors are not mapped");
    }
    maps
}

fn wave(gpu: &GpuCompute, phase: f32) -> (Tensor, Vec<f32>) {
    let values: Vec<f32> = (0..COUNT).map(|i| (i as f32 * 0.37 + phase).sin()).collect();
    let positive = values.iter().map(|v| v.max(0.0)).collect();
    (gpu.tensor(&values, &[COUNT / 64, 64]).unwrap(), positive)
}

/// relu of a tensor that is given up.
fn relu(gpu: &GpuCompute, mut x: Tensor) -> AsyncGpuResult<Readback<f32>> {
    let mut pass = gpu.pass();
    ops::relu(&mut pass, &mut x).unwrap();
    let result = pass.view::<f32>(&x).unwrap();
    drop(x);
    pass.submit().unwrap();
    result
}

fn all(view: &Readback<f32>) -> Vec<f32> {
    view.rows().flatten().copied().collect()
}

#[test]
fn a_tensor_that_was_given_up_is_mapped_itself() {
    with_engine(
        |_| (),
        |gpu, _| {
            if !maps(&gpu) {
                return;
            }
            let (x, expected) = wave(&gpu, 0.0);
            let buffers = gpu.stats().buffers_created;
            let view = relu(&gpu, x).wait(PATIENCE).unwrap();
            assert_eq!((all(&view), gpu.stats().buffers_created), (expected.clone(), buffers), "no copy of it");
            assert_eq!(gpu.pool_stats().live_buffers, 1, "it is the view's");
            // Nobody else gets it meanwhile.
            let (other, others) = wave(&gpu, 1.0);
            assert_eq!(all(&relu(&gpu, other).wait(PATIENCE).unwrap()), others);
            assert_eq!(all(&view), expected);
            // Then it is the pool's again, and is computed in as before.
            drop(view);
            let buffers = gpu.stats().buffers_created;
            for phase in 2..6 {
                let (x, expected) = wave(&gpu, phase as f32);
                assert_eq!(all(&relu(&gpu, x).wait(PATIENCE).unwrap()), expected);
            }
            assert_eq!((gpu.stats().buffers_created, gpu.pool_stats().live_buffers), (buffers, 0));
        },
    );
}

#[test]
fn a_tensor_that_someone_may_use_is_copied() {
    with_engine(
        |_| (),
        |gpu, _| {
            // Its handle is kept: what changes it afterwards does not change what was read.
            let (mut x, expected) = wave(&gpu, 0.0);
            let mut pass = gpu.pass();
            ops::relu(&mut pass, &mut x).unwrap();
            let view = pass.view::<f32>(&x).unwrap();
            pass.submit().unwrap();
            let mut pass = gpu.pass();
            ops::scale(&mut pass, &mut x, 2.0).unwrap();
            let twice = pass.read::<f32>(&x).unwrap();
            pass.submit().unwrap();
            assert_eq!(all(&view.wait(PATIENCE).unwrap()), expected);
            let doubled: Vec<f32> = expected.iter().map(|v| 2.0 * v).collect();
            assert_eq!(twice.wait(PATIENCE).unwrap(), doubled);

            // Read twice by one pass.
            let mut pass = gpu.pass();
            let two = [pass.view::<f32>(&x).unwrap(), pass.view::<f32>(&x).unwrap()];
            drop(x);
            pass.submit().unwrap();
            assert!(two.into_iter().all(|view| all(&view.wait(PATIENCE).unwrap()) == doubled));

            // Scratch, of a pass that goes on and uses it again.
            let (y, positive) = wave(&gpu, 1.0);
            let mut pass = gpu.pass();
            let mut scratch = pass.tensor(&[COUNT / 64, 64]).unwrap();
            pass.copy(&y, &mut scratch).unwrap();
            ops::relu(&mut pass, &mut scratch).unwrap();
            let first = pass.view::<f32>(&scratch).unwrap();
            drop(scratch);
            pass.flush().unwrap();
            let mut again = pass.tensor(&[COUNT / 64, 64]).unwrap();
            pass.copy(&y, &mut again).unwrap();
            let second = pass.view::<f32>(&again).unwrap();
            drop(again);
            pass.submit().unwrap();
            assert_eq!(all(&first.wait(PATIENCE).unwrap()), positive);
            assert_eq!(all(&second.wait(PATIENCE).unwrap()), gpu.read::<f32>(&y).unwrap());
        },
    );
}

#[test]
fn a_mapped_tensor_is_not_lost_when_its_result_is() {
    with_engine(
        |_| (),
        |gpu, script| {
            if !maps(&gpu) {
                return;
            }
            // Dropped in flight.
            for phase in 0..3 {
                drop(relu(&gpu, wave(&gpu, phase as f32).0));
            }
            gpu.wait_idle().unwrap();
            assert_eq!(gpu.pool_stats().live_buffers, 0);
            // A map that fails takes its buffer with it, and nothing else.
            lock(&script.map_faults).push_back(MapFault::Refused);
            assert!(relu(&gpu, wave(&gpu, 0.0).0).wait(PATIENCE).is_err());
            let (x, expected) = wave(&gpu, 4.0);
            assert_eq!(all(&relu(&gpu, x).wait(PATIENCE).unwrap()), expected);
            assert_eq!(gpu.pool_stats().live_buffers, 0);
        },
    );
}
