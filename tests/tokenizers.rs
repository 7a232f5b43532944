//! Tokenizers from GGUF metadata, against the ids that llama.cpp gives (`tests/oracle/tokenizer_oracle.py`).

#![cfg(feature = "models")]

use std::path::{Path, PathBuf};

use gristmill::Error;
use gristmill::model::{Gguf, Tokenizer};
use serde_json::Value;

/// The stored vocabularies; GRISTMILL_TOKENIZERS names a folder with others.
fn folder() -> PathBuf {
    let stored = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/tokenizers");
    std::env::var_os("GRISTMILL_TOKENIZERS").map_or_else(stored, PathBuf::from)
}

fn load(path: &Path) -> Tokenizer {
    let file = Gguf::open(path).expect("a GGUF file");
    Tokenizer::from_gguf(&file).expect("a tokenizer that is implemented").expect("a vocabulary")
}

fn strs(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().map(|text| text.as_str().expect("a string")).collect()
}

/// Calls `each` with a tokenizer, its row of `expected.json`, and each string with the ids it should have.
fn each_string(mut each: impl FnMut(&str, &Tokenizer, &Value, &str, &[u32])) {
    let text = std::fs::read_to_string(folder().join("expected.json")).expect("expected.json");
    let expected: Value = serde_json::from_str(&text).expect("JSON");
    let strings = strs(&expected["strings"]);
    for row in expected["files"].as_array().expect("files") {
        let name = row["file"].as_str().expect("a name");
        let tokenizer = load(&folder().join(name));
        let all = row["ids"].as_array().expect("ids");
        assert_eq!(all.len(), strings.len(), "{name}");
        for (text, ids) in strings.iter().zip(all) {
            let ids: Vec<u32> = serde_json::from_value(ids.clone()).expect("ids");
            each(name, &tokenizer, row, text, &ids);
        }
    }
}

/// Fails with the first faults, and if there was nothing to find one in.
fn report(seen: usize, faults: &[String]) {
    println!("{seen} texts, {} faults", faults.len());
    assert!(
        seen >= 40 && faults.is_empty(),
        "{} of {seen}:\n{}",
        faults.len(),
        faults[..faults.len().min(20)].join("\n")
    );
}

#[test]
fn every_id_is_llama_cpps() {
    let (mut seen, mut faults) = (0, Vec::new());
    each_string(|file, tokenizer, _, text, expected| {
        seen += 1;
        match tokenizer.encode(text) {
            Ok(ids) if ids == expected => (),
            other => faults.push(format!("{file}: {text:?}: {other:?}, not {expected:?}")),
        }
    });
    report(seen, &faults);
}

/// Text without names of special tokens is what it was, at once and id by id.
#[test]
fn decoding_gives_the_text_back() {
    let (mut seen, mut faults) = (0, Vec::new());
    each_string(|file, tokenizer, row, text, ids| {
        let mut stream = tokenizer.stream();
        let mut streamed: String = ids.iter().map(|&id| stream.push(id).expect("text")).collect();
        streamed += &stream.finish().expect("text");
        let decoded = tokenizer.decode(ids).expect("text");
        if streamed != decoded {
            faults.push(format!("{file}: {text:?}: streamed as {streamed:?}, decoded as {decoded:?}"));
        }
        // U+2581 is how SentencePiece writes a blank.
        if !strs(&row["specials"]).iter().any(|name| text.contains(name)) && !text.contains('\u{2581}') {
            seen += 1;
            if decoded != text {
                faults.push(format!("{file}: {text:?}: decoded as {decoded:?}"));
            }
        }
    });
    report(seen, &faults);
}

/// A megabyte in one word: what looks for the best pair each time, or for the end of the blanks from each of them, is here
/// for hours.
#[test]
fn a_megabyte_without_a_word_in_it() {
    let mut random = 1_u64;
    let letters: String = (0..1 << 20)
        .map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'a' + ((random >> 33) % 26) as u8)
        })
        .collect();
    for name in ["gpt-2", "llama-bpe", "default", "spm", "ties"] {
        let tokenizer =
            load(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/oracle/tokenizers/{name}.gguf")));
        for text in ["a".repeat(1 << 20), " ".repeat(1 << 20), format!("{}x", "\n".repeat(1 << 20)), letters.clone()] {
            let ids = tokenizer.encode(&text).expect("ids");
            assert!(tokenizer.decode(&ids).expect("text") == text, "{name}: {:?}...", &text[..8]);
        }
    }
}

/// A GGUF file of these keys and nothing else.
fn file(keys: &[(&str, Meta)]) -> Gguf {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend((keys.len() as u64).to_le_bytes());
    let string = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    for (key, value) in keys {
        bytes.extend(string(key));
        match value {
            Meta::Text(text) => bytes.extend([8_u32.to_le_bytes().to_vec(), string(text)].concat()),
            Meta::Bool(value) => bytes.extend([7_u32.to_le_bytes().as_slice(), &[u8::from(*value)]].concat()),
            Meta::U32(value) => bytes.extend([4_u32.to_le_bytes(), value.to_le_bytes()].concat()),
            Meta::Texts(texts) => {
                bytes.extend([9_u32.to_le_bytes(), 8_u32.to_le_bytes()].concat());
                bytes.extend((texts.len() as u64).to_le_bytes());
                bytes.extend(texts.iter().flat_map(|text| string(text)));
            }
            Meta::I32s(values) => {
                bytes.extend([9_u32.to_le_bytes(), 5_u32.to_le_bytes()].concat());
                bytes.extend((values.len() as u64).to_le_bytes());
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
            Meta::F32s(values) => {
                bytes.extend([9_u32.to_le_bytes(), 6_u32.to_le_bytes()].concat());
                bytes.extend((values.len() as u64).to_le_bytes());
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            }
        }
    }
    let padding = bytes.len().next_multiple_of(32);
    bytes.resize(padding, 0);
    Gguf::from_memory(bytes).expect("a GGUF file")
}

#[derive(Clone)]
enum Meta {
    Text(&'static str),
    Bool(bool),
    U32(u32),
    Texts(Vec<&'static str>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// Some keys, those of the second list in place of those of the first.
fn with(keys: &[(&'static str, Meta)], others: &[(&'static str, Meta)]) -> Gguf {
    let kept = keys.iter().filter(|(key, _)| others.iter().all(|(other, _)| other != key));
    file(&kept.chain(others).cloned().collect::<Vec<_>>())
}

/// Keys and their values.
type Keys = Vec<(&'static str, Meta)>;

fn bpe() -> Keys {
    vec![
        ("tokenizer.ggml.model", Meta::Text("gpt2")),
        ("tokenizer.ggml.pre", Meta::Text("gpt-2")),
        ("tokenizer.ggml.tokens", Meta::Texts(vec!["a", "b", "ab", "<s>"])),
        ("tokenizer.ggml.token_type", Meta::I32s(vec![1, 1, 1, 3])),
        ("tokenizer.ggml.merges", Meta::Texts(vec!["a b"])),
    ]
}

fn spm() -> Keys {
    vec![
        ("tokenizer.ggml.model", Meta::Text("llama")),
        ("tokenizer.ggml.tokens", Meta::Texts(vec!["<unk>", "<s>", "</s>", "a", "\u{2581}", "\u{2581}a"])),
        ("tokenizer.ggml.token_type", Meta::I32s(vec![2, 3, 3, 1, 1, 1])),
        ("tokenizer.ggml.scores", Meta::F32s(vec![0.0, 0.0, 0.0, -2.0, -3.0, -1.0])),
    ]
}

#[test]
fn small_files_load() {
    for none in [vec![], vec![("tokenizer.ggml.model", Meta::Text("no_vocab"))]] {
        assert!(Tokenizer::from_gguf(&file(&none)).expect("no error").is_none());
    }
    let ids = |file: &Gguf, text| Tokenizer::from_gguf(file).expect("valid").expect("a vocabulary").encode(text);
    assert_eq!(ids(&file(&bpe()), "abba<s>").expect("ids"), [2, 1, 0, 3]);
    assert_eq!(ids(&file(&spm()), "a a").expect("ids"), [1, 5, 5]);
    // The two scores the other way round: the score of what two make counts, not theirs.
    let pieces = with(&spm(), &[("tokenizer.ggml.add_bos_token", Meta::Bool(false))]);
    assert_eq!(ids(&pieces, "aa").expect("ids"), [5, 3]);
    match ids(&pieces, "b") {
        Err(Error::Tokenizer(message)) => assert!(message.contains("`b`") && message.contains("0x62"), "{message}"),
        other => panic!("no piece and no byte: {other:?}"),
    }
}

#[test]
fn what_is_wrong_is_named() {
    let texts = |texts: &[&'static str]| Meta::Texts(texts.to_vec());
    let cases: Vec<(Keys, (&'static str, Meta), &str)> = vec![
        (bpe(), ("tokenizer.ggml.model", Meta::Text("bert")), "`gpt2` and `llama` are"),
        (bpe(), ("tokenizer.ggml.model", Meta::U32(1)), "a string is expected"),
        (bpe(), ("tokenizer.ggml.pre", Meta::Text("tekken")), "`tekken` is not implemented; there are gpt-2, phi-2"),
        (bpe(), ("tokenizer.ggml.tokens", texts(&["a", "b", "a", "c"])), "`a` is token 0 and token 2"),
        (bpe(), ("tokenizer.ggml.tokens", Meta::U32(1)), "an array of strings is expected"),
        (bpe(), ("tokenizer.ggml.token_type", Meta::I32s(vec![1, 1, 1])), "3 elements for 4 tokens"),
        (bpe(), ("tokenizer.ggml.token_type", Meta::I32s(vec![1, 1, 1, 6])), "`<s>` is typed as a byte"),
        (bpe(), ("tokenizer.ggml.merges", texts(&["a b", "ab"])), "element 1, `ab`, is no pair of tokens"),
        (bpe(), ("tokenizer.ggml.merges", texts(&["a c"])), "element 0, `a c`: `c` is not among the tokens"),
        (bpe(), ("tokenizer.ggml.merges", texts(&["b a"])), "`ba` is not among the tokens"),
        (bpe(), ("tokenizer.ggml.add_bos_token", Meta::Bool(true)), "ends without `tokenizer.ggml.bos_token_id`"),
        (spm(), ("tokenizer.ggml.scores", Meta::F32s(vec![0.0])), "1 elements for 6 tokens"),
        (spm(), ("tokenizer.ggml.scores", Meta::F32s(vec![f32::NAN; 6])), "an array of finite f32 is expected"),
        (spm(), ("tokenizer.ggml.bos_token_id", Meta::U32(6)), "is 6, and there are 6 tokens"),
        (spm(), ("tokenizer.ggml.tokens", texts(&["<unk>"])), "is 1, and there are 1 tokens"),
        (spm(), ("tokenizer.ggml.tokens", texts(&[])), "is empty"),
        (bpe(), ("tokenizer.ggml.eos_token_id", Meta::U32(u32::MAX)), "is 4294967295, and there are 4 tokens"),
    ];
    for (keys, (key, value), words) in cases {
        match Tokenizer::from_gguf(&with(&keys, &[(key, value)])) {
            Err(Error::BadFile { message, .. }) => {
                assert!(message.contains("tokenizer.ggml.") && message.contains(words), "{key}: {message}");
            }
            other => panic!("{key}: {words}: {other:?}"),
        }
    }
    for byte in ["<0x-1>", "<0x+1>", "<0xZZ>", "<0x100>", "<0x1>", "0x41"] {
        let tokens = ("tokenizer.ggml.tokens", Meta::Texts(vec!["<unk>", "<s>", "</s>", "a", "\u{2581}", byte]));
        let types = ("tokenizer.ggml.token_type", Meta::I32s(vec![2, 3, 3, 1, 1, 6]));
        match Tokenizer::from_gguf(&with(&spm(), &[tokens, types])) {
            Err(Error::BadFile { message, .. }) => {
                assert!(message.contains(&format!("`{byte}` is typed")), "{message}")
            }
            other => panic!("{byte}: {other:?}"),
        }
    }
    for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.merges"] {
        let keys: Vec<_> = bpe().into_iter().filter(|(name, _)| *name != key).collect();
        match Tokenizer::from_gguf(&file(&keys)) {
            Err(Error::BadFile { message, .. }) => assert!(message.contains(key), "{message}"),
            other => panic!("no {key}: {other:?}"),
        }
    }
}

/// The search for special tokens takes memory: their names have a limit.
#[test]
fn special_names_have_a_limit() {
    let long: &'static str = Box::leak("x".repeat((1 << 20) + 1).into_boxed_str());
    let keys = with(&bpe(), &[("tokenizer.ggml.tokens", Meta::Texts(vec!["a", "b", "ab", long]))]);
    match Tokenizer::from_gguf(&keys) {
        Err(Error::BadFile { message, .. }) => assert!(message.contains("the limit is 1048576"), "{message}"),
        other => panic!("{other:?}"),
    }
}
