//! Kernels without runtime checks: every case passes, and gives the bits that it gives with them, but for kernels that are named.

use std::collections::BTreeSet;

use crate::gpu::{Arithmetic, ComputeBackend, GpuCompute, Options};
use crate::pass::Pass;
use crate::verify::{Case, Layout, Outcome, cases, observe};

/// Kernels whose bits differ on llvmpipe of Mesa 22.3.6, within their bounds both ways: attention over keys in halves,
/// and products of few rows with a gate; 43 of 2,569 cases. Why was not looked into: a driver may fuse products with sums as it
/// likes, and without checks between them it may see others.
const DIFFER: [&str; 2] = ["attention", "matvec_subgroup"];

/// The engines, with and without checks; `None` after a loud skip, a failure where an adapter is required.
fn both() -> Option<[GpuCompute; 2]> {
    let open = |unchecked| {
        let arithmetic = Arithmetic::F16; // where there are units for it
        GpuCompute::open(&Options { unchecked, arithmetic, ..Options::new(ComputeBackend::Gpu) })
    };
    match (open(false), open(true)) {
        (Ok(checked), Ok(unchecked)) => Some([checked, unchecked]),
        (Err(error), _) | (_, Err(error)) => {
            let required = std::env::var("GRISTMILL_REQUIRE_ADAPTER").is_ok_and(|value| value == "1");
            assert!(!required, "GRISTMILL_REQUIRE_ADAPTER=1, and: {error}");
            eprintln!("SKIPPED, not passed: {error}");
            None
        }
    }
}

/// What a case read back, and on which kernels.
type Seen = (u64, BTreeSet<&'static str>);

/// Every case that is not large.
fn run(gpu: &GpuCompute, cases: &[Case]) -> Vec<Seen> {
    let one = |case: &Case| {
        let (outcome, bench) = observe(gpu, case, Layout::Padded, &Pass::submit);
        assert!(!matches!(outcome, Outcome::Failed { .. }), "{}: {outcome:?}", case.name);
        (bench.bits(), bench.into_kernels())
    };
    cases.iter().map(one).collect()
}

#[test]
fn checks_change_no_bit_of_any_case() {
    let Some([checked, unchecked]) = both() else { return };
    let cases: Vec<Case> = cases().into_iter().filter(|case| !case.large).collect();
    let (with, without) = std::thread::scope(|scope| {
        let with = scope.spawn(|| run(&checked, &cases));
        (run(&unchecked, &cases), with.join().unwrap())
    });
    assert!(with.len() > 300 && with.iter().any(|(bits, _)| *bits != 0), "{}", with.len());
    let pairs = cases.iter().zip(with.iter().zip(&without)).filter(|(_, (with, without))| with != without);
    let (known, unknown): (Vec<_>, Vec<_>) =
        pairs.partition(|(_, (_, (_, kernels)))| DIFFER.iter().any(|kernel| kernels.contains(kernel)));
    let unknown: Vec<String> =
        unknown.into_iter().map(|(case, (_, (_, kernels)))| format!("{}: {kernels:?}", case.name)).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
    println!("{} of {} cases differ, all of them of {DIFFER:?}", known.len(), cases.len());
}
