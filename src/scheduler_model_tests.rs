//! The scheduler's model: decisions from calibrations of adapters that are not there, what they say of themselves, and
//! that a calibration is measured, kept and refused. And products of tensors, which follow the same decisions.

use crate::error::Error;
use crate::faults::open;
use crate::gpu::{ComputeBackend, GpuCompute};
use crate::reference;
use crate::scheduler::{Calibration, Cost, HybridScheduler, Place, Residency, Table, Why};
use crate::tensor::{DType, Tensor};

fn cpu() -> GpuCompute {
    GpuCompute::new(ComputeBackend::Cpu).unwrap()
}

fn near(got: f64, right: f64) {
    assert!((got - right).abs() <= 1e-9 * right.abs(), "{got}, not {right}");
}

#[test]
fn a_table_has_its_points_powers_between_them_and_proportion_beyond() {
    let table = Table { x: vec![1.0, 4.0], y: vec![10.0, 1000.0], seconds: vec![1.0, 100.0, 2.0, 200.0] };
    for (i, &x) in table.x.iter().enumerate() {
        for (j, &y) in table.y.iter().enumerate() {
            near(table.at(x, y), table.seconds[2 * i + j]);
        }
    }
    // seconds = sqrt(x) y / 10.
    for (x, y) in [(2.0, 10.0), (2.0, 100.0), (3.0, 37.0)] {
        near(table.at(x, y), f64::sqrt(x) * y / 10.0);
    }
    near(table.at(8.0, 10.0), 4.0);
    near(table.at(4.0, 3000.0), 600.0);
    near(table.at(40.0, 2000.0), 4000.0);
    near(table.at(0.5, 1.0), 1.0);
    near(Table::proportional(3.0).at(0.5, 4.0), 6.0);
    assert_eq!(Table { x: vec![1.0], y: vec![1.0, 2.0], seconds: vec![1.0] }.at(1.0, 2.0), 1.0);
}

#[test]
fn costs_are_the_sum_of_what_lies_where() {
    let calibration = Calibration::from_rates(1e9, 2e9, 1e-4, 1e12, 1e10);
    let (m, k, n) = (128, 256, 64);
    let [a, b, out] = [m * k, k * n, m * n].map(|count| 4.0 * count as f64);
    let work = (m * k * n) as f64;
    let [host, device, either] = [Residency::HOST, Residency::DEVICE, Residency::EITHER]
        .map(|residency| (calibration.gpu_cost(m, k, n, residency), calibration.cpu_cost(m, k, n, residency)));
    let check = |got: Cost, [upload, fixed, compute, download]: [f64; 4]| {
        near(got.upload, upload);
        near(got.fixed, fixed);
        assert!((got.compute - compute).abs() < 1e-6 * compute, "{got}");
        near(got.download, download);
        near(got.total(), upload + fixed + got.compute + download);
    };
    check(host.0, [(a + b) / 1e9, 1e-4, work / 1e12, out / 2e9]);
    check(host.1, [0.0, 0.0, work / 1e10, 0.0]);
    check(device.0, [0.0, 1e-4, work / 1e12, 0.0]);
    check(device.1, [out / 1e9, 0.0, work / 1e10, (a + b) / 2e9]);
    check(either.0, [0.0, 1e-4, work / 1e12, 0.0]);
    check(either.1, [0.0, 0.0, work / 1e10, 0.0]);
    // Weights that stay, as in decoding.
    let weights = Residency { b: Place::Device, ..Residency::HOST };
    check(calibration.gpu_cost(m, k, n, weights), [a / 1e9, 1e-4, work / 1e12, out / 2e9]);
    check(calibration.cpu_cost(m, k, n, weights), [0.0, 0.0, work / 1e10, b / 2e9]);
    // An adapter computes whole tiles, and rows of whole quads: 65 rows are 128, 65 columns 128, and 68 come back.
    check(
        calibration.gpu_cost(65, k, 65, Residency::HOST),
        [4.0 * (65 * k + k * 68) as f64 / 1e9, 1e-4, (128 * 128 * k) as f64 / 1e12, 4.0 * (65 * 68) as f64 / 2e9],
    );
    // Numbers that no machine word holds.
    for cost in [
        calibration.gpu_cost(usize::MAX, usize::MAX, usize::MAX, Residency::HOST),
        calibration.cpu_cost(usize::MAX, usize::MAX, usize::MAX, Residency::DEVICE),
    ] {
        assert!(cost.total().is_finite() && cost.total() > 1e30, "{cost:?}");
    }
    assert_eq!(calibration.cpu_cost(0, 5, 5, Residency::HOST).compute, 0.0);
}

/// A name, rates, whether operands are resident, and of a product of \[256,256\] matrices: does the GPU win?
const ADAPTERS: [(&str, [f64; 5], Residency, bool); 8] = [
    ("fast bus, fast GPU", [1e10, 1e10, 20e-6, 1e13, 5e10], Residency::HOST, true),
    ("slow bus, fast GPU", [5e8, 5e8, 20e-6, 1e13, 5e10], Residency::HOST, false),
    ("slow bus, fast GPU, resident", [5e8, 5e8, 20e-6, 1e13, 5e10], Residency::EITHER, true),
    ("slow download alone", [1e10, 5e8, 20e-6, 1e13, 5e10], Residency::HOST, false),
    ("fast bus, slow GPU", [1e10, 1e10, 20e-6, 4e10, 5e10], Residency::HOST, false),
    ("fast bus, slow GPU, resident", [1e10, 1e10, 20e-6, 4e10, 5e10], Residency::EITHER, false),
    ("slow calls, resident", [1e10, 1e10, 1e-3, 1e13, 5e10], Residency::EITHER, false),
    ("slow bus, slow GPU, on the device", [1e8, 1e8, 20e-6, 4e10, 5e10], Residency::DEVICE, true),
];

#[test]
fn a_decision_follows_the_predictions_and_says_so() {
    let Some((gpu, _)) = open(|_| ()) else { return };
    for (name, [upload, download, fixed, on_gpu, on_cpu], residency, wins) in ADAPTERS {
        let calibration = Calibration::from_rates(upload, download, fixed, on_gpu, on_cpu).named_after(&gpu);
        let scheduler = HybridScheduler::with_calibration(gpu.clone(), calibration.clone()).unwrap();
        assert_eq!(scheduler.calibration().unwrap(), Some(&calibration));
        let decision = scheduler.explain_resident(256, 256, 256, residency);
        assert_eq!(decision.is_gpu(), wins, "{name}: {decision}");
        assert!(matches!(decision.why, Why::Predicted), "{name}");
        let (of_gpu, of_cpu) = (decision.gpu.unwrap(), decision.cpu.unwrap());
        assert_eq!(of_gpu, calibration.gpu_cost(256, 256, 256, residency), "{name}");
        assert_eq!(of_cpu, calibration.cpu_cost(256, 256, 256, residency), "{name}");
        assert_eq!(of_gpu.total() < of_cpu.total(), wins, "{name}");
        // One line, with the choice, the reason and both costs in their parts.
        let text = decision.to_string();
        let start = if wins { "GPU: it is predicted" } else { "CPU: it is predicted" };
        assert!(text.starts_with(start) && text.lines().count() == 1, "{text}");
        for part in [format!("; GPU {of_gpu}"), format!("; CPU {of_cpu}"), "fixed ".to_owned()] {
            assert!(text.contains(&part), "{text}");
        }
        assert_eq!(text.contains("upload "), residency != Residency::EITHER, "{text}");
        // A threshold goes before predictions, and tells them all the same.
        let forced = scheduler.threshold(if wins { usize::MAX } else { 1 });
        let decision = forced.explain_resident(256, 256, 256, residency);
        assert_eq!((decision.is_gpu(), decision.gpu), (!wins, Some(of_gpu)), "{name}");
    }
    assert_eq!(gpu.stats().dispatches, 0);
    let cost = Cost { upload: 1.5e-6, fixed: 2e-5, compute: 0.25, download: 0.0 };
    assert_eq!(cost.to_string(), "250.02 ms = upload 1.5 us + fixed 20.0 us + compute 250.00 ms");
}

#[test]
fn the_crossover_is_the_smallest_cube_that_the_gpu_wins() {
    let Some((gpu, _)) = open(|_| ()) else { return };
    for [upload, download, fixed, on_gpu, on_cpu] in ADAPTERS.map(|(_, rates, ..)| rates) {
        let calibration = Calibration::from_rates(upload, download, fixed, on_gpu, on_cpu).named_after(&gpu);
        let scheduler = HybridScheduler::with_calibration(gpu.clone(), calibration).unwrap();
        let threshold = scheduler.gpu_threshold();
        let wins = |s: usize| scheduler.should_use_gpu(s, s, s);
        match (1..2000).find(|&s| wins(s)) {
            Some(side) => assert_eq!(threshold, side.pow(3)),
            None => assert!(threshold >= 2000usize.pow(3)),
        }
        // A GPU slower than the CPU never wins.
        assert!(on_gpu > on_cpu || threshold == usize::MAX, "{threshold}");
    }
}

#[test]
fn a_calibration_is_measured_once_and_belongs_to_its_adapter() {
    let Some((gpu, _)) = open(|_| ()) else { return };
    let scheduler = HybridScheduler::with_gpu(gpu.clone()).unwrap();
    assert_eq!(gpu.stats().dispatches, 0, "nothing is measured before it is needed");
    let measured = scheduler.explain(64, 64, 64);
    assert!(measured.gpu.is_some() && measured.cpu.is_some());
    let dispatches = gpu.stats().dispatches;
    assert!(dispatches > 0);
    let calibration = scheduler.calibration().unwrap().unwrap().clone();
    assert_eq!(gpu.stats().dispatches, dispatches, "measured once");
    assert_eq!(calibration.adapter, gpu.adapter().unwrap().name);
    // Larger products take longer, on either side.
    let total = |s: usize| {
        let costs = (calibration.gpu_cost(s, s, s, Residency::HOST), calibration.cpu_cost(s, s, s, Residency::HOST));
        (costs.0.total(), costs.1.total())
    };
    let ((small_gpu, small_cpu), (large_gpu, large_cpu)) = (total(64), total(2048));
    assert!(small_gpu < large_gpu && small_cpu < large_cpu, "{calibration:?}");

    let refused = |calibration: &Calibration| HybridScheduler::with_calibration(gpu.clone(), calibration.clone()).err();
    assert!(refused(&calibration).is_none());
    for foreign in [
        Calibration { adapter: "another".to_owned(), ..calibration.clone() },
        Calibration { driver: "another".to_owned(), ..calibration.clone() },
        Calibration { threads: calibration.threads + 1, ..calibration.clone() },
    ] {
        assert!(matches!(refused(&foreign), Some(Error::ForeignCalibration { .. })));
    }
    let table = |x: &[f64], seconds: &[f64]| Table { x: x.to_vec(), y: vec![1.0], seconds: seconds.to_vec() };
    for bad in [
        table(&[], &[]),
        table(&[1.0], &[1.0, 2.0]),
        table(&[1.0], &[0.0]),
        table(&[1.0], &[f64::NAN]),
        table(&[0.0], &[1.0]),
        table(&[2.0, 1.0], &[1.0, 1.0]),
    ] {
        let outcome = refused(&Calibration { cpu: bad.clone(), ..calibration.clone() });
        assert!(matches!(&outcome, Some(Error::BadOption { message, .. }) if message.contains("`cpu`")), "{bad:?}");
    }
    for fixed in [-1.0, f64::INFINITY, f64::NAN] {
        let outcome = refused(&Calibration { fixed, ..calibration.clone() });
        assert!(matches!(outcome, Some(Error::BadOption { .. })));
    }
}

#[cfg(feature = "models")]
#[test]
fn a_calibration_is_saved_and_loaded_for_its_adapter_alone() {
    let Some((gpu, _)) = open(|_| ()) else { return };
    let path = std::env::temp_dir().join(format!("gristmill-calibration-{}.json", std::process::id()));
    let calibration = Calibration::from_rates(1e10, 1.0 / 3.0, 1e-5, 1e12, 1e10).named_after(&gpu);
    calibration.save(&path).unwrap();
    let loaded = Calibration::load(&path, &gpu).unwrap();
    assert_eq!((&loaded.adapter, &loaded.driver), (&calibration.adapter, &calibration.driver));
    near(
        loaded.gpu_cost(64, 64, 64, Residency::HOST).total(),
        calibration.gpu_cost(64, 64, 64, Residency::HOST).total(),
    );
    near(
        loaded.cpu_cost(64, 64, 64, Residency::HOST).total(),
        calibration.cpu_cost(64, 64, 64, Residency::HOST).total(),
    );
    assert!(matches!(Calibration::load(&path, &cpu()), Err(Error::ForeignCalibration { .. })));
    Calibration { driver: "older".to_owned(), ..calibration }.save(&path).unwrap();
    let error = Calibration::load(&path, &gpu).unwrap_err();
    assert!(
        matches!(&error, Error::ForeignCalibration { measured_on, .. } if measured_on.contains("older")),
        "{error}"
    );
    std::fs::write(&path, "{\n\"adapter\": 3}").unwrap();
    let outcome = Calibration::load(&path, &gpu);
    assert!(matches!(outcome, Err(Error::BadFile { offset: 14, .. })), "{outcome:?}");
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(Calibration::load(&path, &gpu), Err(Error::Io { .. })));
}

#[test]
fn products_of_tensors_stay_where_a_is() {
    let Some((gpu, _)) = open(|_| ()) else { return };
    let host = cpu();
    let (m, k, n) = (67, 30, 129);
    let integers = |count: usize| (0..count).map(|i| ((i * 7 + i / 31) % 17) as f32 - 8.0).collect::<Vec<f32>>();
    let (a, b) = (integers(m * k), integers(k * n));
    let right: Vec<f32> = reference::matmul(&a, &b, (m, k, n)).into_iter().map(|v| v as f32).collect();
    let halves: Vec<half::f16> = b.iter().map(|&v| half::f16::from_f32(v)).collect();
    for threshold in [0, usize::MAX] {
        let scheduler = HybridScheduler::with_gpu(gpu.clone()).unwrap().threshold(threshold);
        let mut count = 0;
        for (of_a, of_b) in [(&gpu, &gpu), (&host, &host), (&gpu, &host), (&host, &gpu)] {
            let a = of_a.tensor(&a, &[m, k]).unwrap();
            for b in [of_b.tensor(&b, &[k, n]).unwrap(), of_b.tensor_f16(&halves, &[k, n]).unwrap()] {
                let dispatches = gpu.stats().dispatches;
                let product = scheduler.matmul_tensor(&a, &b).unwrap();
                count += 1;
                assert_eq!(gpu.stats().dispatches > dispatches, threshold == 0);
                assert_eq!(product.lease().is_some(), of_a.is_gpu());
                assert_eq!((product.shape(), of_a.read::<f32>(&product).unwrap()), (&[m, n][..], right.clone()));
            }
        }
        let (stats, of_gpu) = (scheduler.stats(), if threshold == 0 { count } else { 0 });
        assert_eq!((stats.gpu_calls, stats.cpu_calls), (of_gpu, count - of_gpu));
        let (long, words) = (gpu.zeros(&[k + 1, n]).unwrap(), gpu.tensor_u32(&[1; 30], &[k, 1]).unwrap());
        let a = gpu.tensor(&a, &[m, k]).unwrap();
        for wrong in [long, words] {
            assert!(matches!(scheduler.matmul_tensor(&a, &wrong), Err(Error::Shape { .. })), "{wrong:?}");
        }
    }
    // A tensor of a device that this scheduler does not have.
    let alone = HybridScheduler::with_gpu(host.clone()).unwrap();
    let a: Tensor = gpu.zeros_of(&[2, 2], DType::F32).unwrap();
    assert!(matches!(alone.matmul_tensor(&a, &a), Err(Error::ForeignBuffer { .. })));
    // What lies on the device costs the GPU nothing, and the CPU its way there and back.
    let calibration = Calibration::from_rates(1e8, 1e8, 0.0, 1e10, 1e11).named_after(&gpu);
    let scheduler = HybridScheduler::with_calibration(gpu.clone(), calibration).unwrap();
    let dispatches = gpu.stats().dispatches;
    for on in [&gpu, &host] {
        let x = on.zeros(&[100, 100]).unwrap();
        scheduler.matmul_tensor(&x, &x).unwrap();
    }
    assert_eq!((scheduler.stats().gpu_calls, scheduler.stats().cpu_calls), (1, 1));
    assert_eq!(gpu.stats().dispatches, dispatches + 1);
}
