//! Rows by shape: every kernel that has knobs can be timed, at any shape, and what is timed is that kernel.

use gristmill::bench::{Harness, row_of, rows_of};
use gristmill::kernel::{Kernel, kernels};
use gristmill::{ComputeBackend, Error, Format, GpuCompute, Options};

/// The adapter, with or without its subgroups; `None` after a loud skip, a failure where one is required.
fn adapter(subgroups: bool) -> Option<GpuCompute> {
    let mut options = Options::new(ComputeBackend::Gpu);
    options.subgroups = subgroups;
    match GpuCompute::open(&options) {
        Ok(gpu) => Some(gpu),
        Err(error) if std::env::var_os("GRISTMILL_REQUIRE_ADAPTER").is_some() => panic!("{error}"),
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            None
        }
    }
}

fn cpu() -> GpuCompute {
    GpuCompute::new(ComputeBackend::Cpu).unwrap()
}

/// Builds the row and checks it twice; the kernels that ran.
fn check(gpu: &GpuCompute, kernel: &Kernel, shape: &str, format: Format) -> Vec<&'static str> {
    let row = row_of(kernel, shape, format).unwrap_or_else(|error| panic!("{} {shape}: {error}", kernel.name));
    let mut workload = row.workload(gpu).unwrap_or_else(|error| panic!("{}: {error}", row.name()));
    let harness = Harness::new(gpu);
    harness.check(&mut workload).unwrap_or_else(|error| panic!("{error}"));
    // What the first check left must not be what the second one finds.
    harness.check(&mut workload).unwrap_or_else(|error| panic!("again: {error}"))
}

/// Odd sizes, so that tiles and quads are cut, in every format that is read.
fn odd_shapes(kernel: &Kernel) -> Vec<(&'static str, Format)> {
    let floats = |shape| [Format::F32, Format::F16].map(|format| (shape, format)).to_vec();
    let all = |shape| Format::ALL.map(|format| (shape, format)).to_vec();
    match kernel.name {
        "matmul" | "matmul_broadcast" => floats("n=70,m=67,k=37"),
        name if name.starts_with("matmul_transpose_b") => [all("m=67,k=512,n=70"), floats("m=9,k=37,n=5")].concat(),
        "linear_merge" => all("m=67,k=512,n=70,parts=4"),
        "matvec" => [all("m=3,k=512,n=70"), floats("m=8,k=37,n=5")].concat(),
        // Floats of whole blocks are those of matvec_wide.
        "matvec_subgroup" => {
            let others = all("m=3,k=512,n=70").into_iter().filter(|(_, format)| format.is_quantized());
            [others.collect(), floats("m=8,k=37,n=5"), floats("m=3,k=509,n=70")].concat()
        }
        "matvec_wide" => [floats("m=3,k=512,n=70"), floats("m=8,k=32,n=5")].concat(),
        "embed" | "gather" => [all("m=19,k=256,n=33"), floats("m=3,k=37,n=5")].concat(),
        "attention" => [
            floats("m=3,position=40,heads=6,d=10"),
            floats("m=3,position=2,heads=6,d=10,kv_heads=2"),
            floats("m=1,position=2100,heads=1,d=64"),
        ]
        .concat(),
        "attention_tile" => [
            floats("m=70,position=100,heads=6,d=24,kv_heads=2"),
            floats("m=9,position=8,heads=2,d=12"),
            floats("m=33,position=2100,heads=1,d=128"),
        ]
        .concat(),
        "attention_broadcast" => [
            floats("m=19,position=40,heads=6,d=24"),
            floats("m=3,position=2,heads=6,d=8,kv_heads=2"),
            floats("m=1,position=2100,heads=1,d=64"),
        ]
        .concat(),
        "attention_decode" => [
            floats("position=40,heads=6,d=8"),
            floats("position=2,heads=6,d=24,kv_heads=2"),
            floats("position=2100,heads=2,d=64,parts=3"),
        ]
        .concat(),
        "attention_merge" => floats("position=300,heads=6,d=24,kv_heads=2,parts=3"),
        "cast_bits" => [Format::F32, Format::F16, Format::BF16].map(|format| ("m=3,n=37", format)).to_vec(),
        "dot" => vec![("n=70001", Format::F32)],
        "rope" | "norm_rope" => vec![("m=5", Format::F32), ("m=5,heads=3,d=6", Format::F32)],
        "reduce" => ["m=3,n=40000", "m=3,n=37,how=max", "m=3,n=37,how=mean"].map(|shape| (shape, Format::F32)).to_vec(),
        "sample" => ["m=70,n=1001", "m=70,n=1001,top_k=0,top_p=1"].map(|shape| (shape, Format::F32)).to_vec(),
        "gelu" => ["n=70001", "m=3,n=37,form=exact"].map(|shape| (shape, Format::F32)).to_vec(),
        // Whole eights, with the padding.
        "gelu_wide" => ["n=70007", "m=3,n=37,form=exact"].map(|shape| (shape, Format::F32)).to_vec(),
        "probe" => ["n=37", "m=3,n=37,times=7"].map(|shape| (shape, Format::F32)).to_vec(),
        _ => vec![("m=3,n=37", Format::F32), ("m=67,n=1030", Format::F32)],
    }
}

/// Of two ways to a result a device has one: what needs no subgroups is what is left without them.
fn reached(gpu: &GpuCompute, kernel: &Kernel, subgroups: bool) -> bool {
    let software = gpu.adapter().is_some_and(|adapter| adapter.software);
    let broadcast = subgroups && software;
    match kernel.name {
        "gelu" => !software,
        "gelu_wide" => software,
        "matvec" => !subgroups,
        "matvec_subgroup" => subgroups,
        "matvec_wide" => broadcast,
        "matmul" | "matmul_transpose_b" | "attention" | "attention_tile" => !broadcast,
        "matmul_broadcast" | "matmul_transpose_b_broadcast" | "attention_broadcast" => broadcast,
        "matmul_transpose_b_matrix8" | "matmul_transpose_b_matrix16" => false,
        _ => true,
    }
}

/// Once more without subgroups only where that may be another kernel.
fn again(kernel: &Kernel) -> bool {
    matches!(kernel.name, "matvec" | "matmul" | "matmul_transpose_b" | "attention" | "attention_tile")
}

#[test]
fn every_kernel_is_timed_at_its_own_shapes() {
    for (gpu, subgroups) in [(adapter(true), true), (adapter(false), false)] {
        let Some(gpu) = gpu else { continue };
        for kernel in kernels::ALL.iter().filter(|kernel| reached(&gpu, kernel, subgroups)) {
            if !subgroups && !again(kernel) {
                continue;
            }
            let rows = rows_of(&gpu, kernel);
            let row = rows.iter().min_by(|a, b| (a.flops + a.bytes).total_cmp(&(b.flops + b.bytes)));
            let row = row.unwrap_or_else(|| panic!("no row of {}", kernel.name));
            let format = Format::ALL.into_iter().find(|format| format.name() == row.dtype).unwrap();
            let again = row_of(kernel, &row.shape, format).unwrap();
            assert_eq!((again.name(), again.flops, again.bytes), (row.name(), row.flops, row.bytes));
            let ran = check(&gpu, kernel, &row.shape, format);
            assert!(ran.contains(&kernel.name), "{} runs {ran:?}, not {}", row.name(), kernel.name);
        }
    }
}

#[test]
fn every_kernel_is_right_at_odd_shapes() {
    for (gpu, subgroups) in [(adapter(true), true), (adapter(false), false)] {
        let Some(gpu) = gpu else { continue };
        for kernel in kernels::ALL.iter().filter(|kernel| reached(&gpu, kernel, subgroups)) {
            for (shape, format) in odd_shapes(kernel).into_iter().filter(|_| subgroups || again(kernel)) {
                let ran = check(&gpu, kernel, shape, format);
                assert!(ran.contains(&kernel.name), "{} {shape} runs {ran:?}", kernel.name);
            }
        }
    }
}

#[test]
fn the_cpu_backend_is_right_at_the_same_shapes() {
    let cpu = cpu();
    for kernel in kernels::ALL {
        assert!(!rows_of(&cpu, kernel).is_empty(), "no row of {}", kernel.name);
        for (shape, format) in odd_shapes(kernel) {
            assert!(check(&cpu, kernel, shape, format).is_empty());
        }
    }
}

/// A variant that writes nothing is the fastest of all, and what the one before it wrote is right.
#[test]
fn what_is_not_written_is_noticed() {
    for gpu in adapter(true).into_iter().chain([cpu()]) {
        for kernel in kernels::ALL.iter().filter(|kernel| reached(&gpu, kernel, true)) {
            let (shape, format) = odd_shapes(kernel)[0];
            let mut workload = row_of(kernel, shape, format).unwrap().workload(&gpu).unwrap();
            Harness::new(&gpu).check(&mut workload).unwrap();
            workload.record = Box::new(|_, _| Ok(()));
            let outcome = Harness::new(&gpu).check(&mut workload);
            assert!(matches!(outcome, Err(Error::WrongResult { .. })), "{} {shape}: {outcome:?}", kernel.name);
        }
    }
}

/// What is compared are thousands of elements, or all there are, and none of them within a bound that zeros would pass.
#[test]
fn what_is_compared_could_fail() {
    let cpu = cpu();
    for kernel in kernels::ALL {
        for (shape, format) in odd_shapes(kernel) {
            let mut workload = row_of(kernel, shape, format).unwrap().workload(&cpu).unwrap();
            let (count, tensor) = (workload.output.expected.len(), &workload.output.tensor);
            let written = tensor.rows() * tensor.columns();
            assert!(count == written || count >= 1000, "{} {shape}: {count} of {written} are compared", kernel.name);
            let expected = &workload.output.expected;
            let largest = expected.iter().map(|(_, value, _)| value.abs()).fold(0.0, f64::max);
            let loose = expected.iter().filter(|(_, _, bound)| *bound > 0.05 * largest).count();
            // A draw at the very step of a distribution may fall to either side.
            assert!(loose <= if kernel.name == "sample" { count / 20 } else { 0 }, "{} {shape}: {loose}", kernel.name);
            for i in [0, count / 2, count - 1] {
                let right = workload.output.expected[i];
                workload.output.expected[i].1 += 2.0 * right.2 + 0.05 * largest;
                assert!(Harness::new(&cpu).check(&mut workload).is_err(), "{} {shape} at {}", kernel.name, right.0);
                workload.output.expected[i] = right;
            }
        }
    }
}

#[track_caller]
fn refused(kernel: &Kernel, shape: &str, format: Format, words: &[&str]) {
    let error = row_of(kernel, shape, format).expect_err(shape);
    assert!(matches!(error, Error::BadOption { .. } | Error::TooLarge { .. }), "{error:?}");
    let text = error.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{shape}: {text}");
}

#[test]
fn impossible_shapes_are_refused_by_name() {
    use gristmill::kernels as k;
    let f32 = Format::F32;
    refused(&k::matmul::KERNEL, "m=4,k=4", f32, &["shape", "matmul", "`n` is missing", "m, k, n"]);
    refused(&k::matmul::KERNEL, "", f32, &["`m` is missing"]);
    refused(&k::matmul::KERNEL, "m=4,k=4,n=4,o=4", f32, &["no key `o`", "m, k, n"]);
    refused(&k::matmul::KERNEL, "m=4,k=4,n=4,m=4", f32, &["`m` is given twice"]);
    refused(&k::matmul::KERNEL, "4,4,4", f32, &["`4` is no key=value"]);
    for size in ["0", "-1", "4.5", "", "x", "99999999999"] {
        refused(&k::matmul::KERNEL, &format!("m={size},k=4,n=4"), f32, &["`m` is", "at least 1"]);
    }
    refused(&k::matmul::KERNEL, "m=65536,k=65536,n=65536", f32, &["operands of matmul", "elements", "536870912"]);
    refused(&k::relu::KERNEL, "m=4294967295,n=4294967295", f32, &["operands of relu"]);
    refused(&k::embed::KERNEL, "m=1,k=4294967295,n=4294967295", f32, &["operands of embed"]);
    refused(&k::matmul::KERNEL, "m=4,k=32,n=4", Format::Q4_0, &["format", "q4_0", "f32, f16"]);
    refused(&k::softmax::KERNEL, "m=4,n=4", Format::F16, &["format", "f16", "softmax; it takes f32"]);
    refused(&k::matvec::KERNEL, "m=1,k=100,n=4", Format::Q4_0, &["`k` is 100", "a multiple of 32", "q4_0"]);
    refused(&k::matvec_subgroup::KERNEL, "m=1,k=32,n=4", Format::Q6K, &["a multiple of 256", "q6_k"]);
    refused(&k::matvec::KERNEL, "m=9,k=4,n=4", f32, &["`m` is 9", "at most 8", "matmul_transpose_b"]);
    refused(&k::matmul_transpose_b::KERNEL, "m=8,k=4,n=4", f32, &["`m` is 8", "more than 8", "matvec"]);
    refused(&k::gelu::KERNEL, "n=4,form=erf", f32, &["`form` is erf", "tanh, exact"]);
    refused(&k::reduce::KERNEL, "m=4,n=4,how=min", f32, &["sum, max, mean"]);
    refused(&k::attention::KERNEL, "m=4,position=2", f32, &["`m` is 4", "at most 3"]);
    refused(&k::attention::KERNEL, "m=1,position=2,heads=6,kv_heads=4", f32, &["`kv_heads` is 4", "a divisor of 6"]);
    refused(&k::attention::KERNEL, "m=1,position=2,d=5", Format::F16, &["`d` is 5", "even"]);
    refused(&k::attention::KERNEL, "m=1,position=4294967295", f32, &["operands of attention"]);
    refused(&k::rope::KERNEL, "m=1,d=5", f32, &["`d` is 5", "even"]);
    refused(&k::sample::KERNEL, "m=1,n=9,top_k=65", f32, &["`top_k` is 65", "at most 64"]);
    refused(&k::sample::KERNEL, "m=1,n=9,top_p=1.5", f32, &["`top_p` is 1.5", "between 0 and 1"]);
    refused(&k::probe::KERNEL, "n=9,times=100000", f32, &["`times` is 100000", "at most 4096"]);
}

/// However it is asked for, a row has one name, and it is that of the table.
#[test]
fn a_row_has_one_name() {
    let name = |shape: &str| row_of(&kernels::attention::KERNEL, shape, Format::F32).unwrap().name();
    for shape in ["m=1,position=127", "position=127, m=1", "d=64,heads=12,kv_heads=12,m=1,position=127"] {
        assert_eq!(name(shape), "attention m=1,position=127,heads=12,d=64 f32");
    }
    assert_eq!(name("m=1,position=9,heads=8,kv_heads=2"), "attention m=1,position=9,heads=8,d=64,kv_heads=2 f32");
}
