//! Hostile files: every way a checkpoint or a configuration can be wrong that we know of, and thousands we do not.
//!
//! Each is refused with a typed error whose words are checked, so that it is refused for the right reason; in under a
//! second; and without a panic, which would fail the test. The S and T numbers are rows of the plan these were written
//! from. Whatever loads here must load in Hugging Face's own `safetensors` crate too; where we are stricter, the row
//! says so.

#![cfg(feature = "models")]

#[path = "hostile/config.rs"]
mod config;
#[path = "hostile/folder.rs"]
mod folder;
#[path = "hostile/gguf.rs"]
mod gguf;
#[path = "hostile/memory.rs"]
mod memory;

use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gristmill::error::{Error, Result};
use gristmill::model::{Checkpoint, StoredType, to_f32};
use safetensors::SafeTensors;

const CONFIG: &str = r#"{"model_type": "gpt2"}"#;

/// A folder under the system's temporary one, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("gristmill-hostile-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("config.json"), CONFIG).unwrap();
        Self(path)
    }

    fn with(files: &[(&str, &[u8])]) -> Self {
        let folder = Self::new();
        for (name, bytes) in files {
            fs::write(folder.path(name), bytes).unwrap();
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn open(&self) -> Result<Checkpoint> {
        Checkpoint::open(&self.0)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A safetensors file: the header's length, the header, and that many bytes of data.
fn file(header: impl AsRef<[u8]>, data: usize) -> Vec<u8> {
    let header = header.as_ref();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.resize(bytes.len() + data, 0);
    bytes
}

/// A file with the one tensor `a`, described as given.
fn one(entry: &str, data: usize) -> Vec<u8> {
    file(format!(r#"{{"a":{{{entry}}}}}"#), data)
}

/// A valid file of these tensors, end to end: names, types, shapes, bytes.
fn valid(tensors: &[(&str, &str, &[usize], &[u8])]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let begin = data.len();
        data.extend_from_slice(bytes);
        let range = [begin, data.len()];
        entries.push(format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":{range:?}}}"#));
    }
    let mut bytes = file(format!("{{{}}}", entries.join(",")), 0);
    bytes.extend_from_slice(&data);
    bytes
}

/// A small file of three tensors, whose header has an odd length (S17).
fn small() -> Vec<u8> {
    let bytes: Vec<u8> = (0..24).collect();
    let bytes =
        valid(&[("w", "F32", &[2, 3], &bytes), ("bias", "F16", &[3], &bytes[..6]), ("n", "I64", &[], &bytes[..8])]);
    assert!(bytes[0] % 2 == 1, "choose names that make the header odd");
    bytes
}

/// `count` tensors without elements.
fn many(count: usize) -> Vec<u8> {
    let entry = |i| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    file(format!("{{{}}}", (0..count).map(entry).collect::<Vec<_>>().join(",")), 0)
}

/// `__metadata__` of so many entries, each of one byte or as long as said.
fn notes(count: usize, length: usize) -> Vec<u8> {
    let note = |i| format!(r#""{i}":"{}""#, "x".repeat(length));
    file(format!(r#"{{"__metadata__":{{{}}}}}"#, (0..count).map(note).collect::<Vec<_>>().join(",")), 0)
}

fn named(name: &str) -> Vec<u8> {
    file(format!(r#"{{"{name}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#), 1)
}

/// What must become of a file.
#[derive(Clone, Copy)]
enum Fate {
    Loads,
    /// Refused with these words in the message, here and by the safetensors crate.
    Refused(&'static str),
    /// Refused here; the safetensors crate is more lenient.
    Stricter(&'static str),
}
use Fate::{Loads, Refused, Stricter};

/// Longest that a refusal may take. Unoptimized code, which takes ten times as long, gets ten seconds.
const PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });

/// Opens a file from memory and from disk, and says what is not as it must be.
fn check(id: &str, bytes: Vec<u8>, fate: Fate) -> Result<(), String> {
    let folder = Folder::with(&[("model.safetensors", &bytes)]);
    let bytes: &'static [u8] = bytes.leak();
    let lenient = std::panic::catch_unwind(|| SafeTensors::read_metadata(bytes).is_ok()).unwrap_or(false);
    for (door, open) in [
        ("memory", &(|| Checkpoint::from_memory(CONFIG.as_bytes(), bytes)) as &dyn Fn() -> Result<Checkpoint>),
        ("disk", &|| folder.open()),
    ] {
        let start = Instant::now();
        let outcome = open();
        let took = start.elapsed();
        match (&outcome, fate) {
            (Ok(checkpoint), Loads) if lenient => read_all(checkpoint),
            (Err(Error::BadFile { message, offset, .. }), Refused(words)) if message.contains(words) && !lenient => {
                assert!(*offset <= bytes.len() as u64, "{id}: byte {offset} is not in the file");
            }
            (Err(Error::BadFile { message, .. }), Stricter(words)) if message.contains(words) && lenient => {}
            _ => return Err(format!("{id} from {door}: {outcome:?}; the safetensors crate loads it: {lenient}")),
        }
        if took > PATIENCE && outcome.is_err() {
            return Err(format!("{id} from {door}: took {took:?}"));
        }
    }
    Ok(())
}

/// Runs all rows and reports every one that fails.
fn check_all(rows: Vec<(&str, Vec<u8>, Fate)>) {
    let failures: Vec<String> = rows.into_iter().filter_map(|(id, bytes, fate)| check(id, bytes, fate).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Reads everything a checkpoint offers, whole and by rows, and as numbers where it can.
fn read_all(checkpoint: &Checkpoint) {
    for name in checkpoint.names() {
        let info = checkpoint.get(name).unwrap();
        let bytes = checkpoint.read(name).unwrap();
        assert_eq!(bytes.len() as u64, info.byte_len());
        let _ = to_f32(name, info.dtype, &bytes);
        if let (Some(&rows), false) = (info.shape.first(), info.dtype.bits() < 8) {
            assert_eq!(checkpoint.read_rows(name, 0..rows).unwrap(), bytes);
            assert!(checkpoint.read_rows(name, 0..rows + 1).is_err());
        }
    }
}

#[test]
fn lengths_and_syntax_are_checked() {
    let announce = |n: u64| [&n.to_le_bytes()[..], b"{}"].concat();
    let nested = format!(r#"{{"a":{}"#, "[".repeat(100_000));
    let mut rows: Vec<_> = (0..8).map(|n| ("S1 short", vec![0; n], Refused("too few"))).collect();
    rows.extend([
        ("S1 n = 0", announce(0), Refused("cannot be a JSON object")),
        ("S1 n = 1", [&1_u64.to_le_bytes()[..], b"{"].concat(), Refused("cannot be a JSON object")),
        ("S2 n = 2^64-1", announce(u64::MAX), Refused("announced")),
        ("S2 n = 2^63", announce(1 << 63), Refused("announced")),
        ("S2 n = file - 7", announce(3), Refused("3 bytes is announced, 2 bytes follow")),
        ("S2 n = 100,000,001", announce(100_000_001), Refused("announced")),
        ("S3 header shorter than n", file(format!("{{{}", " ".repeat(50)), 0), Refused("EOF while parsing")),
        ("S4 not UTF-8", file(b"{\"\xff\":1}", 0), Refused("not UTF-8")),
        ("S4 BOM", file("\u{feff}{}", 0), Refused("does not start with `{`")),
        ("S4 leading spaces", file("  {}", 0), Stricter("does not start with `{`")),
        ("S4 list", file("[]", 0), Refused("does not start with `{`")),
        ("S4 null", file("null", 0), Refused("does not start with `{`")),
        ("S4 second value", file("{}{}", 0), Refused("trailing characters")),
        ("S4 trailing spaces", file("{}      ", 0), Loads),
        ("S5 nesting", file(nested, 0), Refused("nesting deeper than 64")),
        ("S5 1e999", one(r#""dtype":"U8","shape":[1e999],"data_offsets":[0,1]"#, 1), Refused("out of range")),
        ("S5 negative", one(r#""dtype":"U8","shape":[1],"data_offsets":[-1,0]"#, 1), Refused("integer `-1`")),
        ("S5 float", one(r#""dtype":"U8","shape":[1],"data_offsets":[0,1.0]"#, 1), Refused("floating point `1.0`")),
        ("S5 text", one(r#""dtype":"U8","shape":[1],"data_offsets":["0",1]"#, 1), Refused("string \"0\"")),
        ("S5 three", one(r#""dtype":"U8","shape":[1],"data_offsets":[0,1,1]"#, 1), Refused("trailing characters")),
        ("S5 as a list", file(r#"{"a":["U8",[1],[0,1]]}"#, 1), Stricter("dtype, shape and data_offsets")),
    ]);
    check_all(rows);
}

#[test]
fn names_are_checked() {
    let twin = r#""dtype":"U8","shape":[1],"data_offsets":[0,1]"#;
    let twice = |other: &str| file(format!(r#"{{"a":{{{twin}}},"{other}":{{{twin}}}}}"#), 1);
    check_all(vec![
        ("S6 duplicate name", twice("a"), Stricter("`a` is given twice")),
        ("S6 duplicate shape", one(&format!(r#"{twin},"shape":[1]"#), 1), Refused("`shape` is given twice")),
        ("S6 unknown key", one(&format!(r#"{twin},"scale":2"#), 1), Stricter("unknown key `scale`")),
        ("S6 missing key", one(r#""dtype":"U8","shape":[1]"#, 1), Refused("missing field `data_offsets`")),
        ("S7 empty name", named(""), Stricter("without a name")),
        ("S7 __metadata__ as a tensor", named("__metadata__"), Refused("expected a string")),
        ("S7 NUL", named("a\\u0000"), Stricter("control characters in the tensor name `a\\0`")),
        ("S7 terminal escape", named("\\u001b[2J"), Stricter("control characters")),
        ("S7 10 MiB", named(&"x".repeat(10 << 20)), Stricter("a string of over 1048576 bytes")),
        ("S7 equal after decoding", twice("\\u0061"), Stricter("`a` is given twice")),
        ("S7 lone surrogate", named("\\ud800"), Refused("hex escape")),
        ("S8 number", file(r#"{"__metadata__":{"x":1}}"#, 0), Refused("expected a string")),
        ("S8 null", file(r#"{"__metadata__":null}"#, 0), Stricter("object of strings")),
        ("S8 duplicate", file(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), Refused("`__metadata__` is given twice")),
        ("S8 duplicate note", file(r#"{"__metadata__":{"x":"","x":""}}"#, 0), Stricter("`x` is given twice")),
        ("S8 10^5 entries", notes(100_000, 1), Stricter("more than 4096 __metadata__ entries")),
        ("S24 name of 1,024 bytes", named(&"x".repeat(1024)), Loads),
        ("S24 name of 1,025 bytes", named(&"x".repeat(1025)), Stricter("the limit is 1024")),
        ("S24 4,096 notes", notes(4096, 1), Loads),
        ("S24 4,097 notes", notes(4097, 1), Stricter("more than 4096 __metadata__ entries")),
        ("S24 note of 1 MiB", notes(1, 1 << 20), Loads),
        ("S24 note of 1 MiB and 1", notes(1, (1 << 20) + 1), Stricter("a string of over 1048576 bytes")),
    ]);
}

#[test]
fn shapes_types_and_ranges_are_checked() {
    let tensor = |dtype: &str, shape: &str, range: &str, data: usize| {
        one(&format!(r#""dtype":"{dtype}","shape":{shape},"data_offsets":{range}"#), data)
    };
    let two = |first: &str, second: &str, data: usize| {
        let entry = |range| format!(r#"{{"dtype":"U8","shape":[4],"data_offsets":{range}}}"#);
        file(format!(r#"{{"a":{},"b":{}}}"#, entry(first), entry(second)), data)
    };
    let dims = |count: usize| format!("{:?}", vec![1; count]);
    let mut polyglot = small();
    polyglot.extend_from_slice(b"PK\x05\x06");
    let wrap = (1_u64 << 32) + 1;
    check_all(vec![
        ("S9 unknown type", tensor("F12", "[1]", "[0,4]", 4), Refused("unknown dtype `F12`")),
        ("S9 lower case", tensor("f32", "[1]", "[0,4]", 4), Refused("unknown dtype `f32`")),
        ("S9 F4, odd count", tensor("F4", "[3]", "[0,2]", 2), Refused("no size in whole bytes")),
        ("S9 F4, even count", tensor("F4", "[2,3]", "[0,3]", 3), Loads),
        ("S9 F6, odd count", tensor("F6_E2M3", "[2]", "[0,2]", 2), Refused("no size in whole bytes")),
        ("S9 F8", tensor("F8_E4M3", "[2]", "[0,2]", 2), Loads),
        ("S10 scalar", tensor("F32", "[]", "[0,4]", 4), Loads),
        ("S10 empty", tensor("F32", "[0]", "[0,0]", 0), Loads),
        ("S10 zero hides overflow", tensor("F32", "[0,9223372036854775808]", "[0,0]", 0), Stricter("no size")),
        ("S10 10^5 dims", tensor("U8", &dims(100_000), "[0,1]", 1), Stricter("more than 8 dimensions")),
        ("S24 8 dims", tensor("U8", &dims(8), "[0,1]", 1), Loads),
        ("S24 9 dims", tensor("U8", &dims(9), "[0,1]", 1), Stricter("more than 8 dimensions")),
        ("S11 product wraps", tensor("U8", &format!("[{wrap},{wrap}]"), "[0,8589934593]", 16), Refused("no size")),
        ("S11 product wraps to 0", tensor("U8", "[4294967296,4294967296]", "[0,0]", 0), Refused("no size")),
        ("S12 times bits wraps", tensor("F64", "[2305843009213693953]", "[0,8]", 8), Refused("no size")),
        ("S13 begin > end", tensor("U8", "[4]", "[4,0]", 4), Refused("starts at byte")),
        ("S13 begin = 0 > end", tensor("U8", "[4]", "[0,-4]", 4), Refused("integer `-4`")),
        ("S13 end past the data", tensor("U8", "[5]", "[0,5]", 4), Refused("the file ends here")),
        ("S13 range and shape differ", tensor("U8", "[3]", "[0,4]", 4), Refused("needs 3 bytes")),
        ("S13 hole", two("[0,4]", "[5,9]", 9), Refused("tensor `b` starts at byte")),
        ("S13 overlap", two("[0,4]", "[3,7]", 7), Refused("tensor `b` starts at byte")),
        ("S13 out of order", two("[4,8]", "[0,4]", 8), Loads),
        (
            "S14 end = 2^64-1",
            tensor("U8", "[18446744073709551615]", "[0,18446744073709551615]", 4),
            Refused("beyond any file"),
        ),
        ("S14 begin = 2^64-1", tensor("U8", "[0]", "[18446744073709551615,0]", 0), Refused("beyond any file")),
        ("S15 trailing bytes", polyglot, Refused("4 bytes follow the last tensor")),
        ("S15 no tensors, data", file("{}", 4), Refused("4 bytes follow")),
        ("S17 odd header", small(), Loads),
        ("S18 one range, two names", two("[0,4]", "[0,4]", 4), Refused("tensor `b` starts at byte")),
    ]);
}

#[test]
fn counts_and_headers_have_caps() {
    check_all(vec![
        ("S16 10^5 tensors", many(100_000), Stricter("more than 65536 tensors")),
        ("S24 65,536 tensors", many(65_536), Loads),
        ("S24 65,537 tensors", many(65_537), Stricter("more than 65536 tensors")),
        ("S24 header of 64 MiB", file(format!("{{{}}}", " ".repeat((64 << 20) - 2)), 0), Loads),
        (
            "S24 header of 64 MiB and 1",
            file(format!("{{{}}}", " ".repeat((64 << 20) - 1)), 0),
            Stricter("the limit is"),
        ),
    ]);
}

/// A name for every type of the safetensors crate, and the same size: else it would refuse what we load.
#[test]
fn types_agree_with_the_safetensors_crate() {
    for dtype in StoredType::ALL {
        let bytes = vec![0; dtype.bits() as usize];
        assert_eq!(StoredType::from_name(dtype.name()), Some(dtype));
        check(dtype.name(), valid(&[("a", dtype.name(), &[2, 4], &bytes)]), Loads).unwrap();
    }
}

#[test]
fn errors_name_the_byte() {
    let offset = |bytes: Vec<u8>| match Checkpoint::from_memory(b"{}", bytes) {
        Err(Error::BadFile { offset, .. }) => offset,
        other => panic!("{other:?}"),
    };
    assert_eq!(offset(file(b"{\"\xff\":1}", 0)), 10);
    assert_eq!(offset(file("{\"a\":!}", 0)), 8 + 5);
    assert_eq!(offset(file("{\n\"a\"\n!}", 0)), 8 + 6, "lines are counted as bytes");
    let length = small().len() as u64;
    assert_eq!(offset([small(), vec![0; 3]].concat()), length);
    assert_eq!(offset(small()[..small().len() - 1].to_vec()), length - 1);
}

/// S23: what can be read as f32 is exact, and what cannot is named.
#[test]
fn numbers_survive_and_other_types_are_named() {
    let bits = |dtype, bytes: &[u8]| -> Vec<u32> {
        to_f32("t", dtype, bytes).unwrap().into_iter().map(f32::to_bits).collect()
    };
    let words = [0x8000_0000_u32, 1, 0x7f80_0000, 0x3f80_0001];
    assert_eq!(bits(StoredType::F32, words.map(u32::to_le_bytes).as_flattened()), words);
    let halves = [0x8000_u16, 1, 0x7c00, 0x3c01].map(u16::to_le_bytes);
    assert_eq!(bits(StoredType::F16, halves.as_flattened()), [0x8000_0000, 0x3380_0000, 0x7f80_0000, 0x3f80_2000]);
    assert_eq!(bits(StoredType::BF16, halves.as_flattened()), [0x8000_0000, 0x0001_0000, 0x7c00_0000, 0x3c01_0000]);
    for (dtype, nan) in [(StoredType::F16, 0x7c01_u16), (StoredType::BF16, 0x7f81)] {
        assert!(to_f32("t", dtype, &nan.to_le_bytes()).unwrap()[0].is_nan());
    }
    for dtype in StoredType::ALL {
        let readable = [StoredType::F32, StoredType::F16, StoredType::BF16].contains(&dtype);
        match to_f32("wte", dtype, &[0; 8]) {
            Ok(_) => assert!(readable, "{dtype}"),
            Err(Error::BadTensor { name, message }) => assert!(name == "wte" && message.contains(dtype.name())),
            Err(other) => panic!("{other}"),
        }
    }
    assert!(matches!(to_f32("t", StoredType::F32, &[0; 7]), Err(Error::BadTensor { .. })));
}

/// A checkpoint may be read from several threads at once; reads carry their own position.
#[test]
fn a_checkpoint_is_shared_between_threads() {
    let checkpoint = Checkpoint::from_memory(CONFIG.as_bytes(), small()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| read_all(&checkpoint));
        }
    });
}

#[test]
fn rows_are_those_of_the_first_dimension() {
    let checkpoint = Checkpoint::from_memory(CONFIG.as_bytes(), small()).unwrap();
    let read = |name, rows: Range<usize>| checkpoint.read_rows(name, rows);
    assert_eq!(read("w", 1..2).unwrap(), (12..24).collect::<Vec<u8>>());
    assert_eq!(read("bias", 1..3).unwrap(), [2, 3, 4, 5]);
    assert!(read("w", 2..2).unwrap().is_empty());
    #[allow(clippy::reversed_empty_ranges, reason = "the mistake under test")]
    for (name, rows) in [("w", 0..3), ("w", 2..1), ("w", usize::MAX..usize::MAX), ("n", 0..1), ("absent", 0..1)] {
        assert!(matches!(read(name, rows.clone()), Err(Error::BadTensor { .. })), "{name} {rows:?}");
    }
    let nibbles = Checkpoint::from_memory(CONFIG.as_bytes(), valid(&[("a", "F4", &[2, 3], &[0; 3])])).unwrap();
    assert!(matches!(nibbles.read_rows("a", 0..1), Err(Error::BadTensor { .. })));
    assert_eq!(nibbles.read("a").unwrap().len(), 3);
}

/// Truncation at every byte of a valid file, and 2,000 seeded bit flips: an error, or a checkpoint that can be read.
#[test]
fn truncation_and_bit_flips_never_panic() {
    let bytes = small();
    for end in 0..bytes.len() {
        assert!(Checkpoint::from_memory(b"", bytes[..end].to_vec()).is_err(), "cut at {end}");
    }
    let mut random = Random(1);
    for _ in 0..2000 {
        let mut bytes = small();
        for _ in 0..random.below(3) + 1 {
            let (at, bit) = (random.below(bytes.len()), random.below(8));
            bytes[at] ^= 1 << bit;
        }
        let bytes: &'static [u8] = bytes.leak();
        let lenient = SafeTensors::read_metadata(bytes).is_ok();
        match Checkpoint::from_memory(b"", bytes) {
            Ok(checkpoint) => {
                assert!(lenient, "loads here only: {}", bytes.escape_ascii());
                read_all(&checkpoint);
            }
            Err(error) => {
                let reasons = ["unknown key", "control characters", "is given twice", "does not start with"];
                let stricter = reasons.iter().any(|reason| error.to_string().contains(reason));
                assert!(stricter || !lenient, "{error}: {}", bytes.escape_ascii());
            }
        }
    }
}

/// splitmix64: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % limit as u64) as usize
    }
}
