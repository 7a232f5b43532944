//! A model reading and writing: prompt processing of 64 tokens and token generation of 8, at depth 0, 512 and 2048, on the
//! adapter and on the CPU backend. GPT-2 small on hardware; on a software adapter a model of an eighth of its width, which it
//! can finish. Random weights, from a seed. `--save-baseline` and `--baseline` are criterion's.

use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput};
use gristmill::bench::{ModelTest, TestKind};
use gristmill::model::Config;
use gristmill::{ComputeBackend, GpuCompute, GpuModel};

/// Positions: the deepest test, and what it reads or writes there.
const CONTEXT: usize = 2048 + 128;

fn main() {
    // An error here is for the one who measures: it ends the program and says what it is.
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for backend in [ComputeBackend::Gpu, ComputeBackend::Cpu] {
        let gpu = GpuCompute::new(backend).expect("a backend");
        let software = gpu.adapter().is_some_and(|adapter| adapter.software);
        println!("backend: {}", gpu.adapter().map_or("cpu".to_owned(), ToString::to_string));
        let mut config = match software {
            true => Config::new(5000, CONTEXT, 96, 3, 3),
            false => Config::gpt2_small(),
        };
        config.n_positions = CONTEXT;
        let model = GpuModel::random(&gpu, &config, 0).expect("a model");
        let mut group = criterion.benchmark_group(if gpu.is_gpu() { "decode gpu" } else { "decode cpu" });
        group.sampling_mode(SamplingMode::Flat);
        for depth in [0, 512, 2048] {
            for kind in [TestKind::Prompt(64), TestKind::Generation(8)] {
                let test = ModelTest { kind, depth };
                group.throughput(Throughput::Elements(test.tokens() as u64));
                let mut runner = None;
                group.bench_function(test.name(), |bencher| {
                    let runner = runner.get_or_insert_with(|| test.runner(&model).expect("the depth"));
                    bencher.iter_custom(|runs| (0..runs).map(|_| runner.run().expect("tokens")).sum());
                });
            }
        }
        group.finish();
    }
    criterion.final_summary();
}
