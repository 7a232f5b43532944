//! The workshop: sweeps that a wrong candidate must not win, that go on where they were interrupted, and a file that is watched.
#![cfg(feature = "cli")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

const ADD: &str = include_str!("../shaders/add.wgsl");
/// Small enough to be quick, large enough to be timed.
const SHAPE: &str = "n=262144";

/// A folder of its own, gone with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("gristmill-tune-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.0.join(name), text).unwrap();
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether there is an adapter; said loudly if not, and an error where there must be one.
fn adapter() -> bool {
    let found = gristmill::GpuCompute::new(gristmill::ComputeBackend::Gpu);
    let required = std::env::var("GRISTMILL_REQUIRE_ADAPTER").is_ok_and(|value| value == "1");
    if let Err(error) = &found {
        assert!(!required, "{error}");
        eprintln!("SKIPPED, nothing was tuned: {error}");
    }
    found.is_ok()
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gristmill"));
    command.arg("tune").args(args);
    command
}

fn tune(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// The document of a sweep that must succeed.
fn document(args: &[&str]) -> Value {
    let output = tune(&[args, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn sweep(args: &[&str]) -> Value {
    document(args)["sweeps"][0].clone()
}

fn refused(args: &[&str], code: i32, words: &[&str]) {
    let output = tune(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    words.iter().for_each(|words| assert!(stderr.contains(words), "`{words}` is not in: {stderr}"));
}

fn statuses(sweep: &Value) -> Vec<(Vec<u64>, String)> {
    let values = |knobs: &Value| knobs.as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect();
    let candidates = sweep["candidates"].as_array().unwrap().iter();
    candidates.map(|c| (values(&c["knobs"]), c["status"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn a_wrong_candidate_never_wins() {
    if !adapter() {
        return;
    }
    let folder = Folder::new("wrong");
    // Half of the work is not done, which is fast.
    let planted = ADD
        .replace("const WG = 64u;", "const WG = 64u;\n/// Quads that are not done. Tune: 1u, 2u, 4u\nconst SKIP = 1u;")
        .replace("quad < p.quads", "quad % SKIP == 0u && quad < p.quads");
    let shader = folder.write("planted.wgsl", &planted);
    let cache = folder.path("cache.jsonl");
    let found = sweep(&["add", "--shader", &shader, "--shape", SHAPE, "--knob", "WG=64", "--cache", &cache]);
    let statuses = statuses(&found);
    assert_eq!(statuses.len(), 3);
    for (knobs, status) in statuses {
        assert_eq!(status, if knobs[1] == 1 { "timed" } else { "wrong" }, "{knobs:?}");
    }
    assert_eq!(found["winner"][1], 1);
    assert_eq!(found["verdict"], "default kept");
}

#[test]
fn bad_defaults_are_found_out() {
    if !adapter() {
        return;
    }
    let folder = Folder::new("bad");
    let planted =
        ADD.replace("Tune: 32u, 64u, 128u, 256u", "Tune: 1u, 64u, 3000u").replace("const WG = 64u", "const WG = 1u");
    let shader = folder.write("planted.wgsl", &planted);
    let (cache, html) = (folder.path("cache.jsonl"), folder.path("page.html"));
    let all = document(&["add", "--shader", &shader, "--shape", SHAPE, "--cache", &cache, "--html", &html]);
    let found = &all["sweeps"][0];
    assert_eq!(found["winner"][0], 64, "{found}");
    assert_eq!(found["verdict"], "winner");
    // 3000 invocations are more than a workgroup has anywhere.
    assert!(statuses(found).iter().any(|(knobs, status)| knobs == &[3000] && status == "illegal"), "{found}");
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("gristmill-tune/1") && !page.contains("src=\"http") && !page.contains("href=\"http"));
}

#[test]
fn what_was_run_is_not_run_again() {
    if !adapter() {
        return;
    }
    let folder = Folder::new("resume");
    let cache = folder.path("cache.jsonl");
    let common = ["add", "--shape", SHAPE, "--cache", &cache];
    // Nothing fits such a budget, and the default has to.
    let first = sweep(&[&common[..], &["--budget", "0.001s"]].concat());
    assert_eq!(first["ran"], 0, "{first}");
    assert!(statuses(&first).iter().all(|(_, status)| status == "not run"));
    let some = sweep(&[&common[..], &["--knob", "WG=32,64", "--resume"]].concat());
    assert_eq!((&some["ran"], &some["cached"]), (&2.into(), &0.into()));
    let rest = sweep(&[&common[..], &["--resume"]].concat());
    assert_eq!((&rest["ran"], &rest["cached"]), (&2.into(), &2.into()));
    let lines = std::fs::read_to_string(&cache).unwrap();
    let mut ran: Vec<String> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["values"].to_string()).collect();
    ran.sort();
    assert_eq!(ran.len(), 4);
    ran.dedup();
    assert_eq!(ran.len(), 4, "a candidate ran twice");
    // A file that is damaged is set aside, and what of it can be read is kept.
    std::fs::write(&cache, lines.replacen('{', "[", 1) + "{\"half a li").unwrap();
    let output = tune(&[&common[..], &["--resume", "--json"]].concat());
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("was damaged"));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&found["sweeps"][0]["ran"], &found["sweeps"][0]["cached"]), (&1.into(), &3.into()));
}

#[test]
fn answers_to_what_cannot_be_done() {
    refused(&["nope"], 2, &["`nope`", "matmul, ", "attention"]);
    refused(&["add", "--knob", "BM=1"], 2, &["`BM`", "WG"]);
    refused(&["add", "--knob", "WG="], 2, &["WG=32,64"]);
    refused(&["add", "--budget", "never"], 2, &["60s"]);
    refused(&["add", "--backend", "cpu", "--shape", SHAPE], 2, &["the CPU backend has no knobs"]);
    let folder = Folder::new("answers");
    let other =
        folder.write("add.wgsl", &ADD.replace("var<storage, read> y", "var<storage, read> z").replace("y[", "z["));
    refused(&["add", "--shader", &other], 1, &["bindings", "`z: array<vec4<f32>>`, not `y: array<vec4<f32>>`"]);
    let broken = folder.write("add.wgsl", &ADD.replace("let quad =", "let quad"));
    refused(&["add", "--shader", &broken], 5, &["add.wgsl:21"]);
    if adapter() {
        refused(&["add", "--shape", "q=1"], 2, &["n"]);
        refused(&["matmul", "--shape", "m=0,k=1,n=1"], 2, &["m"]);
    }
}

#[test]
fn what_cannot_be_written_is_said_before_anything_is_measured() {
    let folder = Folder::new("unwritable");
    let nowhere = folder.path("missing/file");
    for option in ["--html", "--emit", "--out"] {
        refused(&["add", option, &nowhere], 5, &["missing/file"]);
        refused(&["add", option, &folder.0.display().to_string()], 5, &["gristmill-tune-unwritable"]);
    }
    refused(&["--all", "--shape", SHAPE], 2, &["--all", "--shape"]);
    refused(&["add", "--all"], 2, &["KERNEL"]);
    refused(&[], 2, &["KERNEL"]);
    refused(&["add", "--format", "q9"], 2, &["q8_0"]);
}

#[test]
fn an_emitted_tuning_keeps_what_the_adapter_is_tuned_to() {
    if !adapter() {
        return;
    }
    let folder = Folder::new("emit");
    let planted = ["add", "--shape", SHAPE, "--knob", "WG=64,32"];
    let (cache, emitted) = (folder.path("cache.jsonl"), folder.path("tuning.txt"));
    let found = sweep(&[&planted[..], &["--cache", &cache, "--emit", &emitted]].concat());
    let text = std::fs::read_to_string(&emitted).unwrap();
    assert!(text.starts_with("# ") && text.contains("tune add"), "{text}");
    let tuning = gristmill::Tuning::parse(&text).unwrap();
    let before = gristmill::GpuCompute::new(gristmill::ComputeBackend::Gpu).unwrap().tuning();
    let lines = |tuning: &gristmill::Tuning| tuning.to_string().lines().count();
    assert_eq!(lines(&tuning), lines(&before) + usize::from(found["verdict"] == "winner"), "{text}");
    assert!(tuning.to_string().ends_with(&before.to_string()));
    // A program that has no such lines starts from the files' own.
    tune(&[&planted[..], &["--cache", &cache, "--emit", &emitted, "--untuned"]].concat());
    let plain = gristmill::Tuning::parse(&std::fs::read_to_string(&emitted).unwrap()).unwrap();
    assert!(lines(&plain) <= 1, "{plain}");
}

#[test]
fn a_tuning_from_a_file_is_where_the_next_begins() {
    if !adapter() {
        return;
    }
    let folder = Folder::new("from");
    let (cache, emitted) = (folder.path("cache.jsonl"), folder.path("tuning.txt"));
    let given = folder.write("given.txt", "# by hand\ngelu: WG=128\n");
    let all = ["--all", "--budget", "0.000001s", "--cache", &cache, "--emit", &emitted, "--tuning", &given];
    let output = tune(&all);
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("the budget is over"), "{said}");
    let text = std::fs::read_to_string(&emitted).unwrap();
    assert!(
        text.ends_with("\ngelu: WG=128\n") && text.lines().filter(|line| !line.starts_with('#')).count() == 1,
        "{text}"
    );
    refused(&["--all", "--tuning", &given, "--untuned"], 2, &["--untuned"]);
}

#[test]
fn a_planted_best_among_many_combinations_is_found() {
    if !adapter() {
        return;
    }
    let folder = Folder::new("many");
    // 216 combinations, of which one wastes no time; the result is the same in all.
    let knobs =
        ["A", "B", "C"].map(|name| format!("/// One of three. Tune: 1u, 2u, 3u, 4u, 5u, 6u\nconst {name} = 1u;\n"));
    let waste = "let off = abs(i32(A) - 4) + abs(i32(B) - 2) + abs(i32(C) - 5);\n        var waste = x[quad];\n        \
                 for (var i = 0; i < 100 * off; i++) { waste = 0.5 * waste + y[quad]; }\n        ";
    let planted = ADD
        .replace("/// Invocations", &format!("{}/// Invocations", knobs.concat()))
        .replace("x[quad] += y[quad]", &format!("{waste}x[quad] += select(y[quad], waste, waste.x == 12345.0)"));
    let shader = folder.write("planted.wgsl", &planted);
    let cache = folder.path("cache.jsonl");
    let found = sweep(&["add", "--shader", &shader, "--shape", "n=65536", "--knob", "WG=64", "--cache", &cache]);
    let names: Vec<&str> = found["knobs"].as_array().unwrap().iter().map(|k| k["name"].as_str().unwrap()).collect();
    let best: Vec<u64> = ["A", "B", "C"]
        .map(|name| found["winner"][names.iter().position(|n| *n == name).unwrap()].as_u64().unwrap())
        .to_vec();
    assert_eq!((best, &found["verdict"]), (vec![4, 2, 5], &"winner".into()));
    assert!(found["ran"].as_u64().unwrap() < 108, "{} of 216 were tried", found["ran"]);
}

/// Results in a cache, by their knobs.
#[cfg(unix)]
fn results(cache: &str) -> Vec<String> {
    let text = std::fs::read_to_string(cache).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["values"].to_string()).collect()
}

#[cfg(unix)]
#[test]
fn an_interrupted_sweep_goes_on_where_it_was() {
    if !adapter() {
        return;
    }
    let folder = Folder::new("interrupt");
    let cache = folder.path("cache.jsonl");
    let common = ["matmul", "--shape", "m=128,k=128,n=128", "--knob", "TM=4", "--knob", "TN=4", "--cache", &cache];
    let mut child = Watched(command(&common).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap(), None);
    let start = std::time::Instant::now();
    while results(&cache).len() < 4 {
        assert!(start.elapsed() < Duration::from_secs(120), "no results");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Not INT, which what a shell runs in the background ignores.
    assert!(Command::new("kill").args(["-TERM", &child.0.id().to_string()]).status().unwrap().success());
    assert!(!child.0.wait().unwrap().success(), "it was not interrupted");
    let before = results(&cache);
    let found = sweep(&[&common[..], &["--resume"]].concat());
    let total = statuses(&found).iter().filter(|(_, status)| status != "illegal").count();
    assert!(before.len() < total, "nothing was left to do");
    assert_eq!(found["cached"], before.len());
    assert_eq!(found["ran"], total - before.len());
    let mut after = results(&cache);
    after.sort();
    after.dedup();
    assert_eq!(after.len(), total, "a candidate ran twice");
    assert_eq!(results(&cache).len(), total);
}

/// A child that is gone with it, and the lines it prints.
struct Watched(Child, Option<mpsc::Receiver<String>>);

impl Watched {
    fn next(&self) -> String {
        self.1.as_ref().expect("lines").recv_timeout(Duration::from_secs(120)).expect("a line after a save")
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn watch(shader: &Path) -> Watched {
    let shader = shader.display().to_string();
    let mut command = command(&["add", "--shape", SHAPE, "--shader", &shader, "--watch"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
    Watched(child, Some(lines))
}

#[test]
fn a_watched_file_is_tried_at_every_save() {
    if !adapter() {
        return;
    }
    let folder = Folder::new("watch");
    let path = folder.write("my.wgsl", ADD);
    let watched = watch(Path::new(&path));
    assert!(watched.next().starts_with("right; "));
    folder.write("my.wgsl", &ADD.replace("+= y[quad]", "+= 2.0 * y[quad]"));
    let wrong = watched.next();
    assert!(wrong.starts_with("wrong result: ") && wrong.contains("element 0 is"), "{wrong}");
    assert!(watched.next().starts_with("the last good one: right; "));
    folder.write("my.wgsl", &ADD.replace("let quad =", "let quad"));
    // naga's message has many lines.
    let mut error = String::new();
    while !error.contains("the last good one: right; ") {
        error += &(watched.next() + "\n");
    }
    assert!(error.starts_with("error: ") && error.contains("my.wgsl:21"), "{error}");
    folder.write("my.wgsl", &ADD.replace("x[quad] += y[quad]", "x[quad] = y[quad] + x[quad]"));
    assert!(watched.next().starts_with("right; "));
}
