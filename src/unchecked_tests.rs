//! Kernels without runtime checks: every case gives the bits that it gives with them.

use std::collections::BTreeSet;

use crate::gpu::{Arithmetic, ComputeBackend, GpuCompute, Options};
use crate::pass::Pass;
use crate::verify::{Case, Layout, Outcome, cases, observe};

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
    let pairs = cases.iter().zip(with.iter().zip(&without));
    let differ = pairs.filter(|(_, (with, without))| with != without);
    let differ: Vec<String> = differ.map(|(case, (_, (_, kernels)))| format!("{}: {kernels:?}", case.name)).collect();
    assert!(differ.is_empty(), "{differ:#?}");
}
