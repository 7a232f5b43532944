//! The command line from outside: documents that parse, exit codes that mean what `--help` says, and the values of
//! `tests/oracle` through `generate` and `perplexity`, on the adapter and on the CPU backend.
//!
//! Without an adapter its half is skipped, which is said aloud, and is an error under `GRISTMILL_REQUIRE_ADAPTER=1`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const ORACLES: [&str; 7] = ["b1", "b2", "b3", "b4", "d1", "d2", "d3"];

fn gristmill(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gristmill"));
    command.args(args).stdin(Stdio::null()).output().expect("the program starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The document of a command that ends well.
fn document(args: &[&str]) -> Value {
    let output = gristmill(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

/// The command ends with a code, a line that says why, and nothing on stdout.
#[track_caller]
fn refused(args: &[&str], code: i32, why: &str) {
    let output = gristmill(args);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(output.stdout.is_empty(), "{args:?} printed {}", String::from_utf8_lossy(&output.stdout));
    assert!(said.contains("error: ") && said.contains(why), "{args:?} said {said}");
    assert!(!said.contains("panicked"), "{args:?} said {said}");
}

#[track_caller]
fn has(document: &Value, keys: &[&str]) {
    for key in keys {
        assert!(document.pointer(&format!("/{}", key.replace('.', "/"))).is_some(), "no {key} in {document:#}");
    }
}

/// The backends to test: `cpu` always, `gpu` where there is an adapter.
fn backends() -> Vec<&'static str> {
    if gristmill(&["doctor"]).status.code() != Some(3) {
        return vec!["gpu", "cpu"];
    }
    let required = std::env::var("GRISTMILL_REQUIRE_ADAPTER").is_ok_and(|value| value == "1");
    assert!(!required, "NO ADAPTER, and GRISTMILL_REQUIRE_ADAPTER=1 asks for one");
    eprintln!("\nNO ADAPTER: skipped whatever needs one\n");
    vec!["cpu"]
}

fn oracle(id: &str) -> (String, Value) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle").join(id);
    let expected = fs::read_to_string(dir.join("expected.json")).expect("expected.json");
    (dir.display().to_string(), serde_json::from_str(&expected).expect("JSON"))
}

fn ids(value: &Value) -> String {
    let ids = value.as_array().expect("a list").iter().map(Value::to_string);
    ids.collect::<Vec<_>>().join(",")
}

/// A folder of one test, removed with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("gristmill-cli-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        Scratch(dir)
    }

    fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.0.join(name);
        fs::write(&path, content).expect("a file");
        path.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn greedy_tokens_are_those_of_pytorch() {
    for backend in backends() {
        for id in ORACLES {
            let (dir, expected) = oracle(id);
            let greedy = &expected["greedy"];
            let (prompt, n) = (ids(&greedy["prompt"]), greedy["n_new"].to_string());
            let place = ["generate", "--backend", backend, "--temperature", "0", "--ignore-eos", "--json"];
            let found = document(&[&place[..], &["--model", &dir, "--tokens", &prompt, "-n", &n]].concat());
            assert_eq!(found["tokens"], greedy["ids"], "{id} on {backend}");
            assert_eq!(found["text"], Value::Null);
            assert_eq!(found["backend"], backend);
            assert_eq!(found["adapter"].is_null(), backend == "cpu");
            assert_eq!(found["sampling"]["place"], if backend == "gpu" { "device" } else { "host" });
            let timings = ["load_s", "time_to_first_token_s", "prompt_tokens_per_s", "decode_tokens_per_s", "total_s"];
            has(&found["timings"], &timings);
            has(
                &found,
                &["model", "prompt_tokens", "stop_reason", "sampling.temperature", "sampling.seed", "sampling.top_k"],
            );
        }
    }
}

#[test]
fn nll_is_that_of_pytorch() {
    for backend in backends() {
        for id in ORACLES {
            let (dir, expected) = oracle(id);
            let tokens = ids(&expected["tokens"]);
            let found = document(&["perplexity", "--backend", backend, "--json", "--model", &dir, "--tokens", &tokens]);
            let numbers = |value: &Value| -> Vec<f64> {
                value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number")).collect()
            };
            let (nll, wanted) = (numbers(&found["nll"]), numbers(&expected["nll"]));
            assert_eq!(nll.len(), wanted.len());
            for (i, (found, wanted)) in nll.iter().zip(&wanted).enumerate() {
                assert!((found - wanted).abs() < 2e-3, "{id} on {backend}, position {i}: {found}, not {wanted}");
            }
            let mean = nll.iter().sum::<f64>() / nll.len() as f64;
            assert!((found["perplexity"].as_f64().expect("a number") - mean.exp()).abs() < 1e-9);
            has(&found, &["model", "architecture", "tokens", "ctx", "backend", "adapter", "timings.tokens_per_s"]);
        }
    }
}

/// Windows overlap by one token: as many values as with one window, and the first window's are the same.
#[test]
fn windows_cover_every_token_once() {
    let (dir, expected) = oracle("b1");
    let tokens = ids(&expected["tokens"]);
    let nll = |ctx: &str| {
        let place = ["perplexity", "--backend", "cpu", "--json", "--model", &dir, "--ctx", ctx, "--tokens", &tokens];
        document(&place)["nll"].as_array().expect("a list").clone()
    };
    let whole = nll("64");
    for ctx in ["2", "7", "59", "60"] {
        let parts = nll(ctx);
        let first = ctx.parse::<usize>().expect("a number") - 1;
        assert_eq!(parts.len(), whole.len(), "{ctx}");
        // Windows of other lengths are products of other shapes, which may add up in another order.
        for (i, (part, whole)) in parts.iter().zip(&whole).take(first.min(59)).enumerate() {
            let (part, whole) = (part.as_f64().expect("a number"), whole.as_f64().expect("a number"));
            assert!((part - whole).abs() < 1e-5, "{ctx}: token {i}: {part}, not {whole}");
        }
    }
}

#[test]
fn token_files_are_lists_or_json() {
    let scratch = Scratch::new("tokens");
    let (dir, expected) = oracle("b1");
    let run = |file: &str| {
        let place = ["generate", "--backend", "cpu", "--temperature", "0", "--json", "-n", "3", "--model", &dir];
        document(&[&place[..], &["--tokens-file", file]].concat())["tokens"].clone()
    };
    let json = expected["greedy"]["prompt"].to_string();
    let wanted: Vec<Value> = expected["greedy"]["ids"].as_array().expect("a list")[..3].to_vec();
    for (name, text) in [("json", json.clone()), ("lines", json.replace(',', "\n").replace(['[', ']'], ""))] {
        assert_eq!(run(&scratch.file(name, text.as_bytes())), Value::Array(wanted.clone()), "{name}");
    }
}

#[test]
fn nothing_asked_for_is_nothing_done() {
    let (dir, _) = oracle("b1");
    let found = document(&["generate", "--backend", "cpu", "--json", "-n", "0", "--model", &dir, "--tokens", "1"]);
    assert_eq!(found["tokens"], Value::Array(Vec::new()));
    assert_eq!(found["stop_reason"], "max_tokens");
}

#[test]
fn text_goes_to_stdout_and_facts_to_stderr() {
    let scratch = Scratch::new("out");
    let (dir, expected) = oracle("b1");
    let (prompt, out) = (ids(&expected["greedy"]["prompt"]), scratch.0.join("out.json").display().to_string());
    let place = ["generate", "--backend", "cpu", "--temperature", "0", "-n", "4", "--model", &dir, "--out", &out];
    let output = gristmill(&[&place[..], &["--tokens", &prompt]].concat());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "15 55 55 55\n");
    let facts = stderr(&output);
    let is_facts = |line: &str| line.starts_with("cpu: ") && line.contains("thread") && line.contains("(asked for)");
    assert!(facts.lines().any(is_facts), "{facts}");
    let document: Value = serde_json::from_slice(&fs::read(out).expect("--out was written")).expect("JSON");
    assert_eq!(ids(&document["tokens"]), "15,55,55,55");
}

#[cfg(feature = "demo")]
#[test]
fn the_demo_model_tells_the_same_story_twice() {
    let args = ["--backend", "cpu", "--json", "-n", "12", "--seed", "5"];
    let (first, second) = (document(&args), document(&[&["generate"], &args[..]].concat()));
    assert_eq!(first["model"], "demo");
    assert!(first["text"].as_str().is_some_and(|text| !text.is_empty()), "{first:#}");
    assert_eq!(first["tokens"], second["tokens"]);
    let other = document(&["--backend", "cpu", "--json", "-n", "12", "--seed", "6"]);
    assert_ne!(first["tokens"], other["tokens"]);
}

#[test]
fn generate_says_how_and_where_it_draws() {
    let (dir, _) = oracle("b1");
    for backend in backends() {
        for (top_k, place) in [("40", "device"), ("0", "host")] {
            let place = if backend == "gpu" { place } else { "host" };
            let args = ["generate", "--backend", backend, "--json", "-n", "5", "--model", &dir, "--tokens", "1,2"];
            let found = document(&[&args[..], &["--top-k", top_k, "--top-p", "0.9", "--seed", "7"]].concat());
            let sampling = &found["sampling"];
            assert_eq!(sampling["place"], place, "{backend}: {sampling}");
            assert_eq!((&sampling["top_p"], sampling["top_k"].to_string()), (&Value::from(0.9), top_k.to_owned()));
        }
    }
}

#[test]
fn doctor_looks_and_tests() {
    for backend in backends() {
        let found = document(&["doctor", "--json", "--backend", backend]);
        has(&found, &["system.os", "system.icd_manifests", "system.environment", "adapters", "missing", "adapter"]);
        assert_eq!(found["self_test"]["passed"], true, "{found:#}");
    }
}

#[test]
fn verify_counts_its_cases() {
    for backend in backends() {
        let found = document(&["verify", "--json", "--op", "relu", "--backend", backend]);
        has(&found, &["skipped", "failures", "adapter", "ops.0.worst"]);
        assert_eq!(found["ops"].as_array().map(Vec::len), Some(1));
        assert_eq!(found["failed"], 0);
        assert!(found["passed"].as_u64() > Some(0), "{found:#}");
    }
    refused(&["verify", "--op", "nonsense"], 2, "layer_norm");
}

#[test]
fn inspect_prints_metadata_and_tensors() {
    let gguf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/gguf/metadata.gguf").display().to_string();
    let found = document(&["inspect", "--json", &gguf]);
    let key = |name: &str| found["metadata"].as_array().into_iter().flatten().find(|key| key["key"] == name);
    assert_eq!(key("general.alignment").map(|key| &key["value"]), Some(&Value::from(64)), "{found:#}");
    assert_eq!(key("test.long").and_then(|key| key["value"].as_array()).map(Vec::len), Some(1000));
    let four = serde_json::json!({ "name": "four", "type": "Q8_0", "shape": [2, 1, 3, 32], "bytes": 204 });
    assert_eq!(found["tensors"][2], four);

    let output = gristmill(&["inspect", &gguf]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains("  test.long             i32[1000]  [0, 1, 2, 3, ...]\n"), "{text}");
    assert!(text.contains("  four    Q8_0  [2, 1, 3, 32]  204 bytes\n"), "{text}");

    let (dir, _) = oracle("b1");
    let found = document(&["inspect", "--json", &dir]);
    assert_eq!(found["format"], "safetensors");
    assert!(found["tensors"].as_array().is_some_and(|tensors| tensors.len() > 10), "{found:#}");
}

#[test]
fn show_prints_a_variant_and_what_it_needs() {
    let scratch = Scratch::new("show");
    let spirv = scratch.file("matmul.spv", b"");
    let found = document(&["show", "matmul", "--knob", "BN=32", "--mode", "BIAS=1", "--spirv", &spirv, "--json"]);
    let named = |list: &str, name: &str| {
        found[list].as_array().into_iter().flatten().find(|entry| entry["name"] == name).cloned().unwrap_or_default()
    };
    assert_eq!((&named("knobs", "BN")["value"], &named("knobs", "BN")["default"]), (&32.into(), &64.into()));
    assert_eq!(named("modes", "BIAS")["value"], 1);
    let out = serde_json::json!({ "binding": 3, "name": "out", "type": "vec4<f32>", "access": "read_write" });
    assert_eq!(named("bindings", "out"), out);
    // 64 / 4 by 32 / 4 invocations; 64 rows of 16 + 1, and 16 rows of 32.
    assert_eq!(found["workgroup_size"], serde_json::json!([128, 1, 1]));
    assert_eq!(found["workgroup_bytes"], 4 * (64 * 17 + 16 * 32));
    assert_eq!(found["subgroups"], false);
    let wgsl = found["wgsl"].as_str().expect("text");
    assert!(wgsl.contains("const BN = 32u;") && wgsl.contains("const BIAS = 1u;") && wgsl.contains("const BM = 64u;"));
    let words = fs::read(&spirv).expect("SPIR-V");
    assert_eq!(words[..4], 0x0723_0203u32.to_le_bytes());
    assert_eq!(found["spirv_bytes"], words.len());

    let output = gristmill(&["show", "matvec_subgroup", "--format", "q4_0", "--spirv", &spirv]);
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains(&format!("{} bytes of SPIR-V", fs::read(&spirv).expect("SPIR-V").len())));
    let functions = fs::read_to_string("shaders/formats/q4_0.wgsl").expect("a format");
    for part in ["subgroups         needed\n", "q4_0 of f32, f16", "  WG", "of 8, 16, 32, 64", &functions] {
        assert!(text.contains(part), "no {part} in {text}");
    }
}

#[test]
fn show_says_what_there_is() {
    refused(&["show", "matmull"], 2, "no kernel `matmull`; there are add, add_layer_norm");
    refused(&["show", "matmul", "--knob", "BX=1"], 2, "--knob BX: matmul has BM, BN, BK, TM, TN");
    refused(&["show", "matmul", "--knob", "BIAS=1"], 2, "matmul has BM");
    refused(&["show", "relu", "--mode", "BIAS=1"], 2, "--mode BIAS: relu has none");
    refused(&["show", "matmul", "--knob", "BM"], 2, "NAME=VALUE");
    refused(&["show", "matmul", "--knob", "BM=-1"], 2, "NAME=VALUE");
    refused(&["show", "matmul", "--format", "q9_9"], 2, "matmul takes f32, f16, bf16, q8_0");
    refused(&["show", "relu", "--format", "f16"], 2, "relu takes f32");
    // 32 columns are no multiple of 5.
    refused(&["show", "matmul", "--knob", "TN=5"], 5, "const_assert");
    refused(&["show", "matmul", "--knob", "TN=5"], 5, "shaders/matmul.wgsl:");
    refused(&["show", "matmul", "--knob", "BM=0", "--json"], 5, "shaders/matmul.wgsl:");
    refused(&["show", "relu", "--spirv", "/no/such/folder/x.spv"], 5, "/no/such/folder/x.spv");
}

#[test]
fn wrong_arguments_exit_2() {
    let (dir, _) = oracle("b1");
    let model = |rest: &[&'static str]| -> Vec<String> {
        let start = ["generate", "--backend", "cpu", "--json", "--model", &dir];
        start.iter().chain(rest).map(|arg| (*arg).to_owned()).collect()
    };
    let long = "--tokens=".to_owned() + &["1"; 65].join(",");
    let cases: [(&[&'static str], &str); 9] = [
        (&["--tokens", "61"], "token 61 is out of range"),
        (&["--tokens", "99999999999"], "out of range"),
        (&["--tokens", "1,x"], "`x` is not a token id"),
        (&["--tokens", "-1"], "`-1` is not a token id"),
        (&["--tokens", ""], "the prompt is empty"),
        (&[], "the prompt is empty"),
        (&["--tokens", "1", "--temperature", "-1"], "must be 0"),
        (&["--tokens", "1", "--top-p", "1.5"], "must be between 0 and 1"),
        (&["--tokens", "1", "--prompt", "a"], "cannot be used with"),
    ];
    for (rest, why) in cases {
        let args = model(rest);
        refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), 2, why);
    }
    let args = [&model(&[])[..], &[long]].concat();
    refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), 2, "the context holds 64");
    refused(&["perplexity", "--backend", "cpu", "--model", &dir, "--tokens", "1"], 2, "at least two");
    refused(&["perplexity", "--model", &dir, "--tokens", "1,2", "--ctx", "65"], 2, "--ctx 65");
    refused(&["generate", "--model", &dir, "--tokens", "1", "--context", "65"], 2, "context: 65");
    refused(&["generate", "--model", &dir, "--tokens", "1,2", "--context", "1"], 2, "the context holds 1");
    refused(&["generate", "--model", &dir, "--tokens", "1", "--kv", "q8_0"], 2, "possible values: f32, f16");
    refused(&["grind"], 2, "unrecognized");
}

#[test]
fn bad_files_exit_5() {
    let (dir, _) = oracle("b1");
    let scratch = Scratch::new("bad");
    let generate = |model: &str| refused(&["generate", "--json", "--model", model, "--tokens", "1"], 5, model);
    refused(&["generate", "--json", "--model", &dir, "--prompt", "hello"], 5, "no tokenizer");
    generate("/no/such/folder");
    generate(&scratch.0.display().to_string());
    // A header that claims more than the file holds.
    scratch.file("config.json", &fs::read(Path::new(&dir).join("config.json")).expect("config.json"));
    scratch.file("model.safetensors", &u64::MAX.to_le_bytes());
    generate(&scratch.0.display().to_string());
    let config = scratch.file("config.json", br#"{"model_type": "mistral"}"#);
    refused(&["generate", "--random", &config, "--tokens", "1"], 5, "model_type");
    let large =
        br#"{"model_type": "llama", "hidden_size": 65536, "num_hidden_layers": 1024, "num_attention_heads": 64}"#;
    let config = scratch.file("large.json", large);
    if cfg!(target_os = "linux") {
        refused(&["generate", "--random", &config, "--tokens", "1", "--backend", "cpu"], 5, "does not fit");
    }
    let tokens = scratch.file("tokens.txt", b"1, 2, three");
    refused(&["perplexity", "--model", &dir, "--tokens-file", &tokens], 5, "`three`");
    let tokens = scratch.file("tokens.bin", &[0x31, 0xff]);
    refused(&["perplexity", "--model", &dir, "--tokens-file", &tokens], 5, "byte 1");
    let gguf = scratch.file("x.gguf", b"GGUF\x02\0\0\0");
    refused(&["inspect", &gguf], 5, "x.gguf: byte 4: is GGUF version 2; version 3 is read");
    refused(&["inspect", "--json", "/no/such/file"], 5, "/no/such/file");
    refused(&["inspect", &scratch.0.display().to_string()], 5, "model.safetensors");
}

#[test]
fn a_missing_adapter_exits_3() {
    let (dir, _) = oracle("b1");
    let nowhere = ["--adapter", "no such adapter", "--json"];
    let generate = [&["generate", "--model", &dir, "--tokens", "1"], &nowhere[..]].concat();
    refused(&generate, 3, "no adapter");
    refused(&[&["verify"], &nowhere[..]].concat(), 3, "no adapter");
    assert_eq!(gristmill(&[&["doctor"], &nowhere[..]].concat()).status.code(), Some(3));
}

/// `gristmill ... | head -1`: the reader may go at any time.
#[test]
fn a_closed_pipe_is_no_error() {
    let (dir, _) = oracle("b1");
    let mut child = Command::new(env!("CARGO_BIN_EXE_gristmill"))
        .args(["generate", "--backend", "cpu", "--model", &dir, "--tokens", "1", "-n", "60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!stderr(&output).contains("error"), "{}", stderr(&output));
}
