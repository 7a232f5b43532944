//! Kernels without runtime checks: every case gives the bits that it gives with them.

use std::collections::BTreeMap;

use crate::gpu::{Arithmetic, ComputeBackend, GpuCompute, Options};
use crate::pass::Pass;
use crate::verify::{Layout, Outcome, cases, observe};

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

#[test]
fn checks_change_no_bit_of_any_case() {
    let Some(engines) = both() else { return };
    let mut differ: BTreeMap<Vec<&str>, Vec<String>> = BTreeMap::new();
    let mut ran = 0;
    for case in cases().iter().filter(|case| !case.large) {
        let [(first, with), (second, without)] =
            engines.each_ref().map(|gpu| observe(gpu, case, Layout::Padded, &Pass::submit));
        let bad = [&first, &second].into_iter().find(|outcome| matches!(outcome, Outcome::Failed { .. }));
        assert!(bad.is_none(), "{}: {bad:?}", case.name);
        ran += 1;
        if with.bits() != without.bits() {
            let kernels = without.into_kernels().into_iter().collect();
            differ.entry(kernels).or_default().push(case.name.clone());
        }
    }
    assert!(ran > 300, "{ran} cases");
    assert!(differ.is_empty(), "{differ:#?}");
}
