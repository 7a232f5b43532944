//! Every kernel at shapes of the models it is for, by the harness that `gristmill bench kernels` uses too: checked first, on
//! several sets of operands, by the device's clock where there is one. `--save-baseline` and `--baseline` are criterion's.

use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput};
use gristmill::bench::{Harness, rows};
use gristmill::{ComputeBackend, GpuCompute};

fn main() {
    // An error here is for the one who measures: it ends the program and says what it is.
    let gpu = GpuCompute::new(ComputeBackend::Gpu).expect("an adapter");
    println!("adapter: {}", gpu.adapter().expect("an adapter"));
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let mut group = criterion.benchmark_group("kernels");
    group.sampling_mode(SamplingMode::Flat);
    let harness = Harness::new(&gpu);
    for row in rows(&gpu) {
        // Products are judged by their operations, all else by its bytes.
        group.throughput(match row.flops > 0.0 {
            true => Throughput::Elements(row.flops as u64),
            false => Throughput::BytesDecimal(row.bytes as u64),
        });
        let mut workload = None;
        group.bench_function(row.name(), |bencher| {
            // Only what is asked for gets its operands, and is checked.
            let workload = workload.get_or_insert_with(|| {
                let mut workload = row.workload(&gpu).expect("the operands");
                harness.check(&mut workload).expect("a right result");
                workload
            });
            bencher.iter_custom(|calls| harness.time(workload, calls as usize).expect("a result"));
        });
    }
    group.finish();
    criterion.final_summary();
}
