//! The harness, its records and its clocks: that they refuse what they should, not how fast anything is.

use std::fs;
use std::path::{Path, PathBuf};

use gristmill::bench::{
    Adapter, Ceilings, Entry, Environment, Estimate, Harness, KernelRow, ModelTest, Record, SCHEMA, TestKind, compare,
    parse_records, rows, turns, yardstick,
};
use gristmill::model::{Config, Dispatches, SessionOptions};
use gristmill::{Clock, ComputeBackend, Error, GpuCompute, GpuModel, ops};

/// The adapter; `None` after a loud skip, a failure where one is required.
fn adapter() -> Option<GpuCompute> {
    match GpuCompute::new(ComputeBackend::Gpu) {
        Ok(gpu) => Some(gpu),
        Err(error) if std::env::var_os("GRISTMILL_REQUIRE_ADAPTER").is_some() => panic!("{error}"),
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            None
        }
    }
}

fn environment() -> Environment {
    let adapter = Adapter {
        name: "A".to_owned(),
        kind: "software".to_owned(),
        backend: "vulkan".to_owned(),
        driver: "1".to_owned(),
        software: true,
    };
    let mut environment = Environment::of(&GpuCompute::new(ComputeBackend::Cpu).unwrap());
    environment.adapter = Some(adapter);
    environment
}

fn interval(median: f64, half: f64) -> Estimate {
    Estimate { median, low: median - half, high: median + half }
}

fn kernel(relative: Estimate) -> KernelRow {
    KernelRow {
        name: "relu m=1,n=4 f32".to_owned(),
        op: "relu".to_owned(),
        shape: "m=1,n=4".to_owned(),
        dtype: "f32".to_owned(),
        kernels: vec!["relu".to_owned()],
        flops: 0.0,
        bytes: 32.0,
        sets: 8,
        working_set: 128,
        calls: 3,
        repetitions: 7,
        wall_us: interval(9.0, 1.0),
        device_us: None,
        yardstick_us: interval(5.0, 1.0),
        relative,
        gflops: None,
        gb_per_s: 1.0,
        peak_gflops: 9.0,
        peak_gb_per_s: 9.0,
        datasheet: None,
    }
}

fn line(entry: Entry) -> String {
    Record::new(&environment(), entry).to_line().unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false if path.extension().is_some_and(|e| e == "jsonl") => found.push(path),
            false => (),
        }
    }
    found
}

#[test]
fn committed_records_are_of_the_schema() {
    let found = files(Path::new("benches/record"));
    assert!(!found.is_empty());
    for path in found {
        let records = parse_records(&fs::read_to_string(&path).unwrap());
        let records = records.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(!records.is_empty(), "{} is empty", path.display());
    }
}

#[test]
fn every_field_is_documented() {
    let text = fs::read_to_string("benches/record/README.md").unwrap();
    let mut missing = Vec::new();
    let mut kinds = std::collections::BTreeSet::new();
    let own = line(Entry::Kernel(kernel(interval(2.0, 0.1))));
    let committed: String = files(Path::new("benches/record")).iter().map(|p| fs::read_to_string(p).unwrap()).collect();
    for line in own.lines().chain(committed.lines()) {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        kinds.insert(value["kind"].as_str().unwrap().to_owned());
        let object = value.as_object().unwrap();
        let inner = object["environment"].as_object().unwrap();
        missing.extend(object.keys().chain(inner.keys()).filter(|key| !text.contains(&format!("`{key}`"))).cloned());
    }
    assert!(missing.is_empty(), "not in benches/record/README.md: {missing:?}");
    assert!(kinds.iter().all(|kind| text.contains(&format!("**`{kind}`**"))), "{kinds:?}");
}

#[test]
fn what_is_no_record_is_refused_with_its_line() {
    let good = line(Entry::Kernel(kernel(interval(2.0, 0.1))));
    assert_eq!(parse_records(&format!("{good}\n\n{good}\n")).unwrap().len(), 2);
    let broken = [
        (good.replace(SCHEMA, "gristmill-bench/0"), "schema"),
        (good.replace("\"repetitions\":7", "\"repetitions\":6"), "repetitions"),
        (good.replace("\"median\":9.0", "\"median\":19.0"), "interval"),
        (good.replace("\"op\":", "\"opp\":"), "op"),
        (good.replace("\"kind\":\"kernel\"", "\"kind\":\"wish\""), "wish"),
        (good.replace("\"sets\":8", "\"sets\":0"), "measured"),
        ("{".to_owned(), "EOF"),
    ];
    for (text, word) in broken {
        match parse_records(&format!("{good}\n{text}\n")) {
            Err(Error::BadRecord { line: 2, message }) => assert!(message.contains(word), "{word}: {message}"),
            other => panic!("{word}: {other:?}"),
        }
    }
}

#[test]
fn a_fifth_slower_is_noticed_and_noise_is_not() {
    let before = |relative| vec![Record::new(&environment(), Entry::Kernel(kernel(relative)))];
    let change = |now: Estimate, then: Estimate| compare(&kernel(now), &before(then), Some("A")).unwrap();
    let (then, slower) = (interval(2.0, 0.05), interval(2.4, 0.05));
    assert!(change(slower, then).is_slower());
    assert!(change(then, slower).is_faster());
    assert!(!change(then, then).is_slower() && !change(then, then).is_faster());
    assert!(!change(interval(2.09, 0.05), then).is_slower(), "within 5 %");
    assert!(!change(interval(2.4, 0.5), then).is_slower(), "within the noise");
    assert!(change(interval(2.4, 0.5), then).is_unclear() && !change(slower, then).is_unclear());
    // Another adapter, or a row that was not there, is no baseline.
    assert_eq!(compare(&kernel(then), &before(then), Some("B")), None);
    let mut other = kernel(then);
    other.name = "relu m=2,n=4 f32".to_owned();
    assert_eq!(compare(&other, &before(then), Some("A")), None);
}

#[test]
fn what_is_wrong_is_not_timed() {
    let Some(gpu) = adapter() else { return };
    let all = rows(&gpu);
    let row = all.iter().find(|row| row.op == "relu").unwrap();
    let mut workload = row.workload(&gpu).unwrap();
    assert_eq!(Harness::new(&gpu).check(&mut workload).unwrap(), ["relu"]);
    workload.output.expected[3].1 += 0.5;
    let error = Harness::new(&gpu).measure(&mut [&mut workload]).unwrap_err();
    assert!(matches!(&error, Error::WrongResult { what, .. } if what.starts_with("relu")), "{error}");
}

#[test]
fn a_figure_above_the_ceiling_is_no_result() {
    let Some(gpu) = adapter() else { return };
    let all = rows(&gpu);
    let mut workload = all.iter().find(|row| row.op == "relu").unwrap().workload(&gpu).unwrap();
    let harness = Harness::new(&gpu);
    let mut yard = yardstick(&gpu).unwrap();
    harness.measure_below(&mut workload, &mut yard, &mut Ceilings::new()).unwrap();
    workload.bytes *= 1000.0;
    let error = harness.measure_below(&mut workload, &mut yard, &mut Ceilings::new()).unwrap_err();
    assert!(matches!(&error, Error::Implausible { message, .. } if message.contains("GB/s")), "{error}");
}

/// Every op is timed somewhere, at shapes that differ, and its result is the right one on both backends.
#[test]
fn every_row_is_right() {
    for gpu in adapter().into_iter().chain([GpuCompute::new(ComputeBackend::Cpu).unwrap()]) {
        let all = rows(&gpu);
        let mut names: Vec<String> = all.iter().map(|row| row.name()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all.len(), "two rows of one name");
        // The large ones are checked where they are timed.
        for row in all.iter().filter(|row| row.flops < 2e7 && row.bytes < 4e6) {
            let mut workload = row.workload(&gpu).unwrap();
            let kernels = Harness::new(&gpu).check(&mut workload).unwrap();
            assert_eq!(kernels.is_empty(), !gpu.is_gpu(), "{}", row.name());
        }
    }
}

#[test]
fn a_device_times_its_dispatches() {
    let Some(gpu) = adapter() else { return };
    let mut x = gpu.tensor(&vec![-1.0; 4096], &[64, 64]).unwrap();
    let plain = |pass: &mut gristmill::Pass, x: &mut gristmill::Tensor| {
        ops::relu(pass, x).unwrap();
        ops::scale(pass, x, 2.0).unwrap();
    };
    for clock in [Clock::Whole, Clock::Each] {
        if gpu.clock() < Some(clock) {
            eprintln!("SKIPPED: no {clock:?} on {:?}", gpu.adapter());
            continue;
        }
        let mut pass = gpu.pass();
        plain(&mut pass, &mut x);
        let result = pass.read::<f32>(&x).unwrap();
        let before = gpu.stats();
        let times = pass.submit_timed(clock).unwrap().wait(std::time::Duration::from_secs(60)).unwrap();
        assert!(result.wait(std::time::Duration::from_secs(60)).unwrap().iter().all(|v| *v == 0.0));
        assert_eq!((gpu.stats().submits - before.submits, gpu.stats().dispatches - before.dispatches), (1, 2));
        assert!(times.seconds > 0.0);
        let ops: Vec<&str> = times.dispatches.iter().map(|dispatch| dispatch.op.as_ref()).collect();
        match clock {
            Clock::Whole => assert!(ops.is_empty()),
            Clock::Each => {
                assert_eq!(ops, ["relu", "scale"]);
                let sum: f64 = times.dispatches.iter().map(|dispatch| dispatch.seconds).sum();
                assert!((sum - times.seconds).abs() <= 1e-9 * times.dispatches.len() as f64, "{sum} {}", times.seconds);
                // In place: read and written.
                assert!(times.dispatches.iter().all(|dispatch| dispatch.work.bytes == 2.0 * 4096.0 * 4.0));
            }
        }
    }
    // More than a set has room for.
    let mut pass = gpu.pass();
    (0..4096).for_each(|_| ops::relu(&mut pass, &mut x).unwrap());
    assert!(matches!(pass.submit_timed(Clock::Each), Err(Error::TooLarge { needed: 4097, .. } | Error::Limit { .. })));
}

#[test]
fn a_host_has_no_device_clock() {
    let cpu = GpuCompute::new(ComputeBackend::Cpu).unwrap();
    assert_eq!(cpu.clock(), None);
    assert!(matches!(cpu.pass().submit_timed(Clock::Whole), Err(Error::Limit { .. })));
    let model = GpuModel::random(&cpu, &Config::new(50, 32, 16, 2, 2), 1).unwrap();
    assert!(matches!(model.profile(4, 4), Err(Error::Limit { .. })));
    assert!(matches!(model.profile_prompt(4, 4), Err(Error::Limit { .. })));
}

#[test]
fn a_profile_accounts_for_every_dispatch_of_a_token() {
    let Some(gpu) = adapter() else { return };
    if gpu.clock() < Some(Clock::Each) {
        eprintln!("SKIPPED: no clock for single dispatches on {:?}", gpu.adapter());
        return;
    }
    let config = Config::new(50, 64, 16, 3, 2);
    let options = SessionOptions { dispatches: Dispatches::Fewest, ..SessionOptions::new(&config) };
    let model = GpuModel::random_with(&gpu, &config, 1, &options).unwrap();
    let profile = model.profile(8, 5).unwrap();
    // 5 a layer and 3; the context is too short to be cut into parts.
    assert_eq!(profile.rows.iter().map(|row| row.dispatches).sum::<usize>(), 5 * 3 + 3);
    assert!(profile.rows.iter().all(|row| row.seconds > 0.0 && row.work.bytes > 0.0));
    let sum: f64 = profile.rows.iter().map(|row| row.seconds).sum();
    assert!((sum + profile.other() - profile.seconds).abs() < 1e-12);
    let attention = profile.rows.iter().find(|row| row.op == "attention_decode").unwrap();
    // 3 layers; 16 wide; five tokens from position 10 on, so 13 positions are looked at on average.
    assert_eq!((profile.position, attention.work.flops), (10, 3.0 * 4.0 * 16.0 * 13.0));
    assert!(matches!(model.profile(60, 5), Err(Error::ContextFull { limit: 64, .. })));
}

#[test]
fn a_profile_accounts_for_every_dispatch_of_a_prompt() {
    let Some(gpu) = adapter() else { return };
    if gpu.clock() < Some(Clock::Each) {
        eprintln!("SKIPPED: no clock for single dispatches on {:?}", gpu.adapter());
        return;
    }
    let model = GpuModel::random(&gpu, &Config::new(50, 600, 16, 3, 2), 1).unwrap();
    let dispatches = |depth, tokens| {
        let profile = model.profile_prompt(depth, tokens).unwrap();
        assert_eq!((profile.position, profile.tokens), (depth, tokens));
        let sum: f64 = profile.rows.iter().map(|row| row.seconds).sum();
        assert!(
            profile.rows.iter().all(|row| row.seconds > 0.0) && (sum + profile.other() - profile.seconds).abs() < 1e-12
        );
        let of = |name: &str| profile.rows.iter().find(|row| row.kernel.starts_with(name)).unwrap().clone();
        (of("embed").dispatches, of("attention").dispatches, of("attention").work)
    };
    // Each of 300 tokens looks at itself and all before it, in 3 layers, 16 wide: in blocks of 256 rows and of 44.
    let (blocks, attentions, work) = dispatches(0, 300);
    assert_eq!((blocks, attentions, work.flops), (2, 6, 3.0 * 4.0 * 16.0 * (300.0 * 301.0 / 2.0)));
    // Keys and values are read once by each block: 256 of them, then 300.
    let rows = 300.0 * 4.0 * 4.0 * 16.0;
    assert_eq!(work.bytes, 3.0 * (2.0 * 4.0 * 16.0 * (256.0 + 300.0) + rows));
    // Four tokens after 100.
    let (blocks, attentions, work) = dispatches(100, 4);
    assert_eq!((blocks, attentions, work.flops), (1, 3, 3.0 * 4.0 * 16.0 * (101.0 + 102.0 + 103.0 + 104.0)));
    assert!(matches!(model.profile_prompt(597, 4), Err(Error::ContextFull { limit: 600, .. })));
}

#[test]
fn tests_of_models_read_and_write_as_much_as_they_say() {
    let cpu = GpuCompute::new(ComputeBackend::Cpu).unwrap();
    let model = GpuModel::random(&cpu, &Config::new(50, 32, 16, 2, 2), 1).unwrap();
    let test = |kind, depth| ModelTest { kind, depth };
    for (test, name) in [(test(TestKind::Prompt(5), 0), "pp5"), (test(TestKind::Generation(7), 20), "tg7 @ d20")] {
        assert_eq!(test.name(), name);
        let row = test.run(&model, "m", 3).unwrap();
        assert_eq!((row.samples_ns.len(), row.samples_ts.len(), row.n_prompt + row.n_gen), (3, 3, test.tokens()));
        let line = line(Entry::Model(row));
        assert_eq!(parse_records(&line).unwrap().len(), 1);
    }
    let error = test(TestKind::Generation(12), 20).run(&model, "m", 1).unwrap_err();
    assert!(matches!(error, Error::ContextFull { have: 33, limit: 32 }), "{error}");
}

#[test]
fn arms_take_turns() {
    let order = std::cell::RefCell::new(Vec::new());
    let mut a = || {
        order.borrow_mut().push('a');
        Ok(())
    };
    let mut b = || {
        order.borrow_mut().push('b');
        Ok(())
    };
    let seconds = turns(3, &mut [&mut a, &mut b]).unwrap();
    assert_eq!(seconds.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3]);
    assert_eq!(order.take().iter().collect::<String>(), "ababbaab");
}
