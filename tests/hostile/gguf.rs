//! Hostile GGUF files: rows G1 to G50 of the plan, made here byte by byte.
//!
//! Each is refused with words that are checked, or loads; either way with at most twice its size and 16 MiB of memory,
//! which an allocator counts. How long it takes is bounded by how the reader is built, a few passes over the header's
//! bytes, and not asserted here.
//!
//! What a model makes of its metadata is not the reader's to judge. Of G37 to G45 the tests here are what the getters say; a
//! layer count of zero, or a head that does not divide, is for the admission of a model to refuse. So are weights that are
//! NaN (G46, G49): a reader hands over bytes. The tests of that are in `gguf/model.rs`.

#[path = "gguf/bytes.rs"]
mod bytes;
#[path = "gguf/model.rs"]
mod model;

use std::fs;
use std::path::Path;

use gristmill::error::Error;
use gristmill::model::Gguf;
use gristmill::model::gguf::{GgmlType, ValueType};

use super::{Folder, memory};
use bytes::*;

#[test]
fn g1_to_g6_beginnings_and_counts() {
    let whole = small();
    for end in 0..24 {
        let why = if end < 8 { "the file ends in the" } else { "the file ends in the number of" };
        check("G1", &whole[..end], Err(why)).unwrap();
    }
    check_all(vec![
        ("a valid file", small(), LOADS),
        ("G2 other magic", [b"GGML", &whole[4..]].concat(), Err("starts with `GGML`")),
        ("G2 no text", [b"\x1b[2J", &whole[4..]].concat(), Err("starts with `\\x1b[2J`")),
        ("G2 swapped", [b"FUGG", &whole[4..]].concat(), Err("bytes are swapped")),
        (
            "G2 big-endian",
            [b"GGUF".as_slice(), &3_u32.to_be_bytes(), &1_u64.to_be_bytes(), &0_u64.to_be_bytes()].concat(),
            Err("big-endian file of GGUF version 3"),
        ),
        ("G3 version 0", start(0, 0, 0), Err("version 0, which is unknown")),
        ("G3 version 1", start(1, 0, 0), Err("version 1; version 3 is read")),
        ("G3 version 2", start(2, 0, 0), Err("version 2; version 3 is read")),
        ("G3 version 4", start(4, 0, 0), Err("version 4, which is unknown")),
        ("G3 version 2^32-1", start(u32::MAX, 0, 0), Err("version 4294967295, which is unknown")),
        ("G4 -1 tensors", start(3, u64::MAX, 0), Err("18446744073709551615 tensors are announced; the limit")),
        ("G4 2^63 tensors", start(3, 1 << 63, 0), Err("9223372036854775808 tensors are announced; the limit")),
        ("G4 2^32 tensors", start(3, 1 << 32, 0), Err("4294967296 tensors are announced; the limit")),
        ("G4 file size and 1", start(3, 25, 0), Err("25 tensors of at least 25 bytes are announced, 0 bytes follow")),
        ("G5 -1 keys", start(3, 0, u64::MAX), Err("18446744073709551615 metadata keys are announced; the limit")),
        ("G5 2^63 keys", start(3, 0, 1 << 63), Err("9223372036854775808 metadata keys are announced; the limit")),
        ("G5 2^24 keys", start(3, 0, 1 << 24), Err("16777216 metadata keys are announced; the limit")),
        ("G5 65,536 keys", start(3, 0, 65_536), Err("65536 metadata keys of at least 14 bytes are announced")),
        ("G6 nothing", start(3, 0, 0), LOADS),
        ("G6 nothing, padded", file(&[], &[], 0), LOADS),
        ("G6 nothing, and a byte", file(&[], &[], 1), Err("1 bytes follow the last tensor")),
    ]);
}

#[test]
fn g7_to_g12_keys_and_values() {
    let announce = |len: u64| [start(3, 0, 1), len.to_le_bytes().to_vec(), vec![b'a'; 64]].concat();
    let text = |len: u64| with("x", STRING, [&len.to_le_bytes()[..], b"abc"].concat());
    let of_type = |kind: u32| with("x.y", kind, [0; 8]);
    let twice = |kind: u32| file(&[key("x.y", U8, [0]), key("x.y", kind, [0; 4])], &[], 0);
    check_all(vec![
        ("G7 no key", with("", U8, [0]), Err("`` is no metadata key")),
        ("G7 65,535 bytes", with("a".repeat(65_535), U8, [0]), LOADS),
        ("G7 65,536 bytes", with("a".repeat(65_536), U8, [0]), Err("a metadata key has 65536 bytes; the limit")),
        ("G7 2^63 bytes", announce(1 << 63), Err("the file ends in a metadata key: 9223372036854775808 bytes")),
        ("G7 past the end", announce(65), Err("the file ends in a metadata key: 65 bytes are announced, 64 follow")),
        ("G8 not UTF-8", with(b"a\xff", U8, [0]), Err("a metadata key is not UTF-8")),
        ("G8 NUL", with("a\0", U8, [0]), Err("`a\\0` is no metadata key")),
        ("G8 not ASCII", with("schlüssel", U8, [0]), Err("`schlüssel` is no metadata key")),
        ("G8 a space", with("a b", U8, [0]), Err("`a b` is no metadata key")),
        ("G8 upper case, as names of templates have", with("tokenizer.chat_template.RAG", U8, [0]), LOADS),
        ("G9 same type", twice(U8), Err("metadata `x.y` is given twice")),
        ("G9 other type", twice(U32), Err("metadata `x.y` is given twice")),
        ("G10 type 13", of_type(13), Err("metadata `x.y` has type 13")),
        ("G10 type 255", of_type(255), Err("metadata `x.y` has type 255")),
        ("G10 type 2^32-1", of_type(u32::MAX), Err("metadata `x.y` has type 4294967295")),
        ("G11 bool 2", with("x.y", BOOL, [2]), Err("metadata `x.y` is a bool of [2]")),
        ("G11 in an array", with("x.y", ARRAY, array(BOOL, 3, [0, 1, 7])), Err("metadata `x.y` has a bool of 7")),
        ("G12 2^64-1", text(u64::MAX), Err("metadata `x`: 18446744073709551615 bytes are announced")),
        ("G12 2^63", text(1 << 63), Err("metadata `x`: 9223372036854775808 bytes are announced")),
        ("G12 1 GiB", text(1 << 30), Err("metadata `x`: 1073741824 bytes are announced")),
        ("G12 past the end", text(100), Err("metadata `x`: 100 bytes are announced")),
        ("G12 not UTF-8", with("x", STRING, string(b"\xc3")), Err("metadata `x` is not UTF-8")),
        ("G12 16 MiB and 1", with("x", STRING, string(vec![b'a'; (16 << 20) + 1])), Err("limit is 16777216")),
    ]);
}

#[test]
fn g13_to_g18_arrays_and_alignment() {
    let a = |kind, len, elements: &[u8]| with("x.y", ARRAY, array(kind, len, elements));
    let nested = |depth: usize| {
        let inner = array(ARRAY, 1, []).repeat(depth);
        with("x.y", ARRAY, [inner, array(U8, 0, [])].concat())
    };
    let aligned_to = |alignment: u32| with("general.alignment", U32, alignment.to_le_bytes());
    let alignment = Err("a u32 is expected, a power of two from 8 to 65536");
    let k64 = key("general.alignment", U32, 64_u32.to_le_bytes());
    let two = |second: u64| [tensor("a", &[8], 0, 0), tensor("b", &[8], 0, second)];
    let mut rows = vec![
        ("G13 2^63 elements", a(U8, 1 << 63, &[]), Err("metadata `x.y` is an array of 9223372036854775808 elements")),
        ("G13 size wraps", a(U64, (1 << 61) + 1, &[]), Err("metadata `x.y` is an array of 2305843009213693953")),
        ("G13 past the end", a(U64, 1 << 20, &[]), Err("metadata `x.y`: 8388608 bytes are announced")),
        ("G13 strings past the end", a(STRING, 1 << 20, &[]), Err("metadata `x.y`: 8388608 bytes are announced")),
        ("G13 a string past the end", a(STRING, 1, &[9, 0, 0, 0, 0, 0, 0, 0]), Err("metadata `x.y`: 9 bytes")),
        ("G13 a string not UTF-8", a(STRING, 2, &[string("a"), string(b"\xff")].concat()), Err("`x.y` is not UTF-8")),
        (
            "G13 a character in two strings",
            a(STRING, 2, &[string(b"\xc3"), string(b"\xa9")].concat()),
            Err("`x.y` is not UTF-8"),
        ),
        ("G14 depth 2", nested(1), Err("metadata `x.y` is an array of arrays")),
        ("G14 depth 65", nested(65), Err("metadata `x.y` is an array of arrays")),
        ("G14 depth 10^5", nested(100_000), Err("metadata `x.y` is an array of arrays")),
        ("G15 elements of type 13", a(13, 1, &[0; 8]), Err("metadata `x.y` has type 13")),
        ("G16 2^24 empty strings", a(STRING, 1 << 24, &vec![0; 8 << 24]), Err("array of 16777216 elements; the limit")),
        ("G16 2^20 empty strings", a(STRING, 1 << 20, &vec![0; 8 << 20]), LOADS),
        ("G16 2^20 bytes and 1", a(U8, (1 << 20) + 1, &vec![0; (1 << 20) + 1]), Err("the limit is 1048576")),
        ("G17 2^63", with("general.alignment", U64, (1_u64 << 63).to_le_bytes()), alignment),
        ("G17 i32", with("general.alignment", I32, 32_u32.to_le_bytes()), alignment),
        ("G17 f32", with("general.alignment", F32, 32_f32.to_le_bytes()), alignment),
        ("G17 string", with("general.alignment", STRING, string("32")), alignment),
        ("G17 twice", file(&[k64.clone(), k64.clone()], &[], 0), Err("`general.alignment` is given twice")),
        ("G17 64", aligned(64, std::slice::from_ref(&k64), &two(64), 96), LOADS),
        ("G18 64, tensors at 32", aligned(64, &[k64], &two(32), 64), Err("tensor `b` is at offset 32 of the data, no")),
        (
            "G18 not stated, tensors at 64",
            file(&[], &two(64), 96),
            Err("tensor `b` is at offset 64 of the data; tensors"),
        ),
    ];
    rows.extend([0, 1, 3, 4, 13, 131_072, 1 << 31].map(|n| ("G17 alignment", aligned_to(n), alignment)));
    rows.extend([8_u32, 65_536].map(|n| {
        ("G17 alignment", aligned(n as usize, &[key("general.alignment", U32, n.to_le_bytes())], &[], 0), LOADS)
    }));
    check_all(rows);
}

/// G15: the type that the file states is the type that is read, and a getter of another type says so.
#[test]
fn g15_elements_are_of_the_stated_type() {
    let keys = [
        key("scores", ARRAY, array(U8, 3, [1, 2, 3])),
        key("token_type", ARRAY, array(U8, 3, [1, 2, 3])),
        key("signed", ARRAY, array(I32, 1, (-1_i32).to_le_bytes())),
        key("nan", ARRAY, array(F32, 1, f32::NAN.to_le_bytes())),
    ];
    let gguf = Gguf::from_memory(file(&keys, &[], 0)).unwrap();
    assert_eq!(gguf.u32s("token_type").unwrap(), Some(vec![1, 2, 3]));
    says(gguf.f32s("scores"), 24, "`scores` is [1, 2, 3] (array of u8); an array of finite f32 is expected");
    says(gguf.strs("scores"), 24, "an array of strings is expected");
    says(gguf.u32("scores"), 24, "an integer from 0 to 2^32 - 1 is expected");
    says(gguf.u32s("signed"), 24 + 33 + 37, "`signed` is [-1] (array of i32)");
    says(gguf.f32s("nan"), 24 + 33 + 37 + 34, "`nan` is [NaN] (array of f32)");
}

/// An error at this byte, with these words in it.
#[track_caller]
fn says<T: std::fmt::Debug>(outcome: Result<T, Error>, byte: u64, words: &str) {
    match outcome {
        Err(Error::BadFile { offset, message, .. }) => {
            assert!(message.contains(words), "{message}");
            assert_eq!(offset, byte, "{message}");
        }
        other => panic!("{words}: {other:?}"),
    }
}

#[test]
fn g19_to_g32_tensors() {
    let named = |name: &[u8]| file(&[], &[tensor(name, &[1], 0, 0)], 4);
    let dims = |count: u32| {
        let mut bytes = of(&[1, 1, 1, 1], 0);
        bytes[24 + 9..24 + 13].copy_from_slice(&count.to_le_bytes());
        bytes
    };
    let big = 0x7FFF_FFFF_FFFF_FFC0_u64;
    let larger = Err("is larger than any file");
    let zero = Err("has a dimension of 0");
    let ends = Err("the file ends here; tensor `a` has bytes");
    let mut rows = vec![
        ("G19 no name", named(b""), Err("a tensor without a name")),
        ("G19 64 bytes", named(&[b'n'; 64]), LOADS),
        ("G19 65 bytes", named(&[b'n'; 65]), Err("a tensor name has 65 bytes; the limit is 64")),
        ("G19 NUL", named(b"a\0"), Err("control characters in the tensor name `a\\0`")),
        ("G19 not UTF-8", named(b"a\xff"), Err("a tensor name is not UTF-8")),
        ("G20", file(&[], &[tensor("a", &[1], 0, 0), tensor("a", &[1], 0, 32)], 64), Err("tensor `a` is given twice")),
        ("G21 a scalar", file(&[], &[tensor("a", &[], 0, 0)], 4), LOADS),
        ("G21 4 dimensions", file(&[], &[tensor("a", &[1, 2, 3, 4], 0, 0)], 96), LOADS),
        ("G21 5 dimensions", dims(5), Err("tensor `a` has 5 dimensions; the limit is 4")),
        ("G21 9 dimensions", dims(9), Err("tensor `a` has 9 dimensions; the limit is 4")),
        ("G21 2^32-1 dimensions", dims(u32::MAX), Err("tensor `a` has 4294967295 dimensions; the limit is 4")),
        ("G22 zero and 2^63", of(&[0, 1 << 63, 4], 0), zero),
        ("G23 -1", of(&[u64::MAX], 0), larger),
        ("G23 2^63", of(&[1 << 63], 0), larger),
        ("G24 wraps to 0", of(&[1 << 32, 1 << 32], 0), larger),
        ("G25 wraps to 4", of(&[(1 << 63) + 2, 2], 0), larger),
        ("G26 wraps to -2", of(&[(1 << 63) - 1, 2, 1, 1], 0), larger),
        ("G27 stride wraps", of(&[(1 << 42) + 1, 1 << 20, 1, 1], 0), larger),
        ("G28 elements fit, bytes do not", of(&[1 << 62], 0), larger),
        ("G28 blocks", of(&[(1 << 63) - 32], Q8_0), larger),
        ("G29 the sum wraps", file(&[], &[tensor("a", &[big / 4], 0, 0), tensor("b", &[big / 4], 0, big)], 64), ends),
        ("G30 the padding wraps", of(&[(1 << 61) - 1, 1], 0), ends),
        ("G31 2^32-1", of(&[32], u32::MAX), Err("tensor `a` is stored as type 4294967295, which is unknown; F32, F16")),
        ("G31 a gap", of(&[32], 36), Err("is stored as type 36, which is unknown")),
        ("G31 removed", of(&[32], 4), Err("is stored as Q4_2, which is not read")),
        ("G31 removed", of(&[32], 5), Err("is stored as Q4_3, which is not read")),
        ("G31 IQ", of(&[256], 16), Err("is stored as IQ2_XXS, which is not read")),
        ("G31 K", of(&[256], 10), Err("is stored as Q2_K, which is not read")),
        ("G31 MXFP4", of(&[32], 39), Err("is stored as MXFP4, which is not read")),
        ("G31 F64", of(&[2], 28), Err("is stored as F64, which is not read")),
        ("G32 Q8_0", of(&[33], Q8_0), Err("tensor `a` has rows of 33 elements; Q8_0 has blocks of 32")),
        ("G32 Q4_K", of(&[128, 2], 12), Err("has rows of 128 elements; Q4_K has blocks of 256")),
        ("G32 a scalar", of(&[], Q8_0), Err("has rows of 1 elements; Q8_0 has blocks of 32")),
    ];
    rows.extend((0..4).map(|place| {
        let mut dims = [4; 4];
        dims[place] = 0;
        ("G22 zero", of(&dims, 0), zero)
    }));
    check_all(rows);
}

#[test]
fn g33_to_g36_places() {
    let three = |offsets: [u64; 3], data: usize| {
        let tensor = |(name, offset)| tensor(name, &[10], 0, offset);
        let tensors: Vec<_> = ["a", "b", "c"].into_iter().zip(offsets).map(tensor).collect();
        file(&[], &tensors, data)
    };
    let whole = three([0, 64, 128], 192);
    let data = whole.len() - 192;
    let order = "tensors lie in order without gap or overlap, so it is at 64";
    let mut rows = vec![
        ("G33 not aligned", three([0, 48, 128], 192), Err("`b` is at offset 48 of the data, no multiple of the")),
        ("G33 a hole", three([0, 96, 160], 224), Err(order)),
        ("G33 overlap", three([0, 32, 96], 192), Err(order)),
        ("G33 one place", three([0, 0, 0], 192), Err(order)),
        ("G33 decreasing", three([128, 64, 0], 192), Err("tensor `a` is at offset 128 of the data; tensors lie")),
        ("G34 past the end", three([1 << 40, 64, 128], 192), Err("tensor `a` is at offset 1099511627776")),
        ("G34 2^64-32", three([u64::MAX - 31, 64, 128], 192), Err("tensor `a` is at offset 18446744073709551584")),
        ("G34 by one byte", three([0, 64, 128], 128 + 39), Err("tensor `c` has bytes")),
        ("G35 without the last padding", whole[..data + 128 + 40].to_vec(), LOADS),
        ("G36 garbage", [&whole[..], b"x"].concat(), Err("1 bytes follow the last tensor")),
        ("G36 a second file", whole.repeat(2), Err("bytes follow the last tensor")),
    ];
    for (boundary, name) in [(0, "`a`"), (40, "`a`"), (64, "`b`"), (104, "`b`"), (128, "`c`")] {
        for end in [boundary - 1, boundary, boundary + 1_isize] {
            let cut = whole[..data.checked_add_signed(end).unwrap()].to_vec();
            let name = if boundary == 40 && end >= 40 || boundary == 104 && end >= 104 { "tensor `" } else { name };
            let name = if boundary % 64 == 0 { "the file ends here; tensor `" } else { name };
            rows.push(("G35", cut, Err(name)));
        }
    }
    check_all(rows);
}

/// G37 to G45, as far as a reader goes: what is not of the type asked for is refused by key and byte, and all else is
/// handed over as it is.
#[test]
fn g37_to_g45_values_are_typed_and_not_judged() {
    let at = 24;
    let one = |kind: u32, value: &[u8]| Gguf::from_memory(with("llama.n", kind, value)).unwrap();
    let (float, signed) = (one(F32, &2_f32.to_le_bytes()), one(I32, &(-1_i32).to_le_bytes()));
    says(float.u32("llama.n"), at, "metadata `llama.n` is 2.0 (f32); an integer from 0 to 2^32 - 1 is expected");
    says(signed.u32("llama.n"), at, "metadata `llama.n` is -1 (i32); an integer");
    says(one(U64, &(1_u64 << 32).to_le_bytes()).u32("llama.n"), at, "is 4294967296 (u64); an integer");
    assert_eq!(one(U64, &(u64::from(u32::MAX)).to_le_bytes()).u32("llama.n").unwrap(), Some(u32::MAX), "G43");
    assert_eq!(one(U32, &(1_u32 << 31).to_le_bytes()).u32("llama.n").unwrap(), Some(1 << 31), "G37, G39");
    for value in [f32::NAN, f32::INFINITY] {
        says(one(F32, &value.to_le_bytes()).f32("llama.n"), at, "a finite f32 is expected");
    }
    assert_eq!(one(F32, &(-0_f32).to_le_bytes()).f32("llama.n").unwrap(), Some(0.0));
    says(signed.f32("llama.n"), at, "a finite f32 is expected");
    says(signed.bool("llama.n"), at, "a bool is expected");
    says(signed.str("llama.n"), at, "a string is expected");
    says(signed.bools("llama.n"), at, "an array of bools is expected");
    assert_eq!(signed.u32("llama.m").unwrap(), None);
    says(signed.need("llama.m", Gguf::u32), at + 8 + 7 + 4 + 4, "the metadata ends without `llama.m`");
    says(signed.need("llama.n", Gguf::u32), at, "`llama.n` is -1");

    let absent = Gguf::from_memory(small()).unwrap();
    assert!(absent.tensor("blk.0.attn_q.weight").is_none(), "G40");
    match absent.read("blk.0.attn_q.weight\x1b") {
        Err(Error::BadTensor { name, .. }) => assert_eq!(name, "blk.0.attn_q.weight\\u{1b}"),
        other => panic!("{other:?}"),
    }
    let tokens = ["<0x-1>", "<0xZZ>", "<0x100>", "a", "a", ""].map(string).concat();
    let merges = [string("nospace"), string("a absent"), string("x".repeat(1_000_000))].concat();
    let keys = |architecture: &str| {
        let tokens = key("tokens", ARRAY, array(STRING, 6, &tokens));
        [
            key("general.architecture", STRING, string(architecture)),
            tokens,
            key("merges", ARRAY, array(STRING, 3, &merges)),
        ]
    };
    for architecture in ["", "no such", &"x".repeat(1 << 20)] {
        let bytes = file(&keys(architecture), &[], 0);
        check("G41, G44, G45", &bytes, LOADS).unwrap();
        let gguf = Gguf::from_memory(bytes).unwrap();
        assert_eq!(gguf.need("general.architecture", Gguf::str).unwrap(), architecture);
        let found: Vec<&str> = gguf.need("tokens", Gguf::strs).unwrap().strs().collect();
        assert_eq!(found, ["<0x-1>", "<0xZZ>", "<0x100>", "a", "a", ""]);
        assert_eq!(
            gguf.need("merges", Gguf::strs).unwrap().strs().map(str::len).collect::<Vec<_>>(),
            [7, 8, 1_000_000]
        );
    }
}

/// G46, G49: what a block or a number means is not asked; the bytes come as they are.
#[test]
fn g46_g49_bytes_are_handed_over() {
    for scale in [0x7c00_u16, 0x7e01, 0xfc00, 0x0001, 0x7bff] {
        let mut bytes = file(&[], &[tensor("a", &[32], Q8_0, 0)], 34);
        let begin = bytes.len() - 34;
        bytes[begin..begin + 2].copy_from_slice(&scale.to_le_bytes());
        let gguf = Gguf::from_memory(bytes.clone()).unwrap();
        assert_eq!(gguf.read("a").unwrap(), bytes[begin..]);
    }
    for value in [f32::NAN, f32::INFINITY, f32::MAX] {
        let mut bytes = file(&[], &[tensor("a", &[1], 0, 0)], 4);
        let begin = bytes.len() - 4;
        bytes[begin..].copy_from_slice(&value.to_le_bytes());
        assert_eq!(Gguf::from_memory(bytes).unwrap().read_rows("a", 0..1).unwrap(), value.to_le_bytes());
    }
}

/// G47: the names of other files are not even looked for. G48: a template is text.
#[test]
fn g47_g48_splits_and_templates() {
    let split = |kind: u32, count: &[u8]| with("split.count", kind, count);
    let several = Err("metadata `split.count` is");
    let traversal = [key("split.no", U8, [0]), key("general.name", STRING, string("../../etc/passwd"))];
    let template = "{% for x in range(10**9) %}{{ self.__init__.__globals__ }}{% endfor %}".repeat(150_000);
    assert!(template.len() > 10 << 20);
    check_all(vec![
        ("G47 65,535 parts", split(2, &[0xff, 0xff]), Err("is 65535: a part of a model in several files")),
        ("G47 2 parts", split(2, &[2, 0]), several),
        ("G47 of another type", split(STRING, &string("../b.gguf")), several),
        ("G47 one part", split(2, &[1, 0]), LOADS),
        ("G47 none", split(2, &[0, 0]), LOADS),
        ("G47 paths", file(&traversal, &[], 0), LOADS),
        ("G48", with("tokenizer.chat_template", STRING, string(&template)), LOADS),
    ]);
    let gguf = Gguf::from_memory(with("tokenizer.chat_template", STRING, string(&template))).unwrap();
    assert_eq!(gguf.str("tokenizer.chat_template").unwrap(), Some(template.as_str()));
}

/// G50: a file of 1 TiB, of which a header and one row are read.
#[test]
fn g50_a_terabyte_of_nothing() {
    let rows = 1_u64 << 30;
    let header = file(&[], &[tensor("a", &[256, rows], 0, 0)], 0);
    let folder = Folder::with(&[("x.gguf", &header)]);
    let path = folder.path("x.gguf");
    let sparse = fs::OpenOptions::new().write(true).open(&path).unwrap();
    if let Err(error) = sparse.set_len(header.len() as u64 + (1 << 40)) {
        println!("skipped: no sparse file of 1 TiB here: {error}");
        return;
    }
    let (row, peak) = memory::peak(|| Gguf::open(&path).unwrap().read_rows("a", rows as usize - 1..rows as usize));
    assert_eq!(row.unwrap(), [0; 1024]);
    assert!(peak < 1 << 20, "{peak} bytes of memory");
    sparse.set_len(header.len() as u64 + (1 << 40) + 1).unwrap();
    says(Gguf::open(&path), header.len() as u64 + (1 << 40), "1 bytes follow");
}

/// The counts at their caps: as many keys and tensors as are allowed, in as few bytes as they can have.
#[test]
fn caps_are_kept_and_affordable() {
    let keys = |count: usize| (0..count).map(|i| key(format!("{i:x}"), U8, [0])).collect::<Vec<_>>();
    let tensors = |count: usize| {
        (0..count).map(|i| tensor(format!("{i:x}"), &[1, 1, 1, 1], 0, 32 * i as u64)).collect::<Vec<_>>()
    };
    let strings = |arrays: usize| {
        let empty = array(STRING, 1 << 20, vec![0; 8 << 20]);
        file(&(0..arrays).map(|i| key(format!("{i}"), ARRAY, &empty)).collect::<Vec<_>>(), &[], 0)
    };
    check_all(vec![
        ("3 * 2^20 empty strings", strings(3), LOADS),
        ("4 * 2^20 empty strings", strings(4), Err("the header is longer than 33554432 bytes")),
        ("both at the cap", file(&keys(65_536), &tensors(65_536), 32 * 65_536), LOADS),
        ("keys at the cap", file(&keys(65_536), &[], 0), LOADS),
        ("a key too many", file(&keys(65_537), &[], 0), Err("65537 metadata keys are announced")),
        ("a tensor too many", file(&[], &tensors(65_537), 0), Err("65537 tensors are announced")),
        ("tensors without data", file(&[], &tensors(65_536), 0), Err("the file ends here; tensor `0`")),
    ]);
}

#[test]
fn errors_name_the_byte() {
    let keys = [key("a", U8, [0]), key("b", BOOL, [9])];
    says(Gguf::from_memory(file(&keys, &[], 0)), 24 + 14 + 13, "metadata `b` is a bool of [9]");
    let keys = [key("a", U8, [0]), key("a", U8, [0])];
    says(Gguf::from_memory(file(&keys, &[], 0)), 24 + 14, "`a` is given twice");
    let bools = with("x", ARRAY, array(BOOL, 3, [0, 5, 1]));
    says(Gguf::from_memory(bools), 24 + 9 + 4 + 12 + 1, "a bool of 5");
    let strings = with("x", ARRAY, array(STRING, 2, [string("ab"), string(b"c\xff")].concat()));
    says(Gguf::from_memory(strings), 24 + 9 + 4 + 12 + 10 + 9, "not UTF-8");
    says(Gguf::from_memory(start(4, 0, 0)), 4, "version 4");
    says(Gguf::from_memory(start(3, u64::MAX, 0)), 8, "tensors are announced");
    says(Gguf::from_memory(start(3, 0, u64::MAX)), 16, "metadata keys are announced");
    says(Gguf::from_memory(of(&[32], 16)), 24 + 9 + 4 + 8, "IQ2_XXS");
    says(Gguf::from_memory(of(&[0], 0)), 24 + 9 + 4, "a dimension of 0");
    let tensors = [tensor("a", &[8], 0, 0), tensor("b", &[8], 0, 0)];
    says(Gguf::from_memory(file(&[], &tensors, 64)), 24 + 33, "tensor `b` is at offset 0");
    let cut = file(&[], &tensors[..1], 31);
    says(Gguf::from_memory(cut.clone()), cut.len() as u64, "the file ends here");
}

#[test]
fn rows_are_those_of_the_first_dimension() {
    let tensors = [tensor("m", &[32, 3], Q8_0, 0), tensor("v", &[64], Q8_0, 128), tensor("s", &[], 0, 224)];
    let gguf = Gguf::from_memory(file(&[], &tensors, 228)).unwrap();
    let data: Vec<u8> = (0..228_u32).map(|i| i as u8).collect();
    assert_eq!(gguf.tensor("m").unwrap().shape, [3, 32]);
    assert_eq!(gguf.read_rows("m", 1..3).unwrap(), data[34..102]);
    assert!(gguf.read_rows("m", 3..3).unwrap().is_empty());
    assert_eq!(gguf.read_rows("v", 32..64).unwrap(), data[128 + 34..128 + 68]);
    assert_eq!(gguf.read("s").unwrap(), data[224..]);
    #[allow(clippy::reversed_empty_ranges, reason = "the mistake under test")]
    for (name, rows) in
        [("m", 0..4), ("m", 2..1), ("m", usize::MAX..usize::MAX), ("v", 0..16), ("s", 0..1), ("x", 0..1)]
    {
        assert!(matches!(gguf.read_rows(name, rows.clone()), Err(Error::BadTensor { .. })), "{name} {rows:?}");
    }
}

/// Every beginning of a valid file is refused, but for the one that lacks only padding; and no damage makes it panic.
#[test]
fn truncation_and_bit_flips_never_panic() {
    let bytes = small();
    for end in 0..bytes.len() {
        assert!(Gguf::from_memory(bytes[..end].to_vec()).is_err(), "cut at {end}");
    }
    damage(&bytes, 4000);
    for name in ["metadata", "quants"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/oracle/gguf/{name}.gguf"));
        let mut bytes = fs::read(path).unwrap();
        bytes.truncate(1 << 16);
        damage(&bytes, 1000);
    }
}

#[cfg(unix)]
#[test]
fn files_that_are_none_and_files_that_shrink() {
    let folder = Folder::with(&[("x.gguf", &small())]);
    let open = |path: &Path| Gguf::open(path);
    assert!(matches!(open(&folder.path("absent")), Err(Error::Io { .. })));
    assert!(open(&folder.0).unwrap_err().to_string().contains("not a regular file"));
    assert!(open(Path::new("/dev/zero")).unwrap_err().to_string().contains("not a regular file"));
    let path = folder.path("x.gguf");
    let gguf = open(&path).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(gguf.byte_len() - 1).unwrap();
    assert!(gguf.read("a").is_ok());
    let begin = gguf.tensor("c").unwrap().offset();
    says(gguf.read("c"), begin, "shortened after it was opened");
}

/// The sizes of ggml's blocks, by its names.
#[test]
fn types_have_the_sizes_of_ggml() {
    let sizes: Vec<(&str, u64, u64)> =
        GgmlType::ALL.iter().map(|kind| (kind.name(), kind.block_len(), kind.block_bytes())).collect();
    #[rustfmt::skip]
    let expected = [
        ("F32", 1, 4), ("F16", 1, 2), ("BF16", 1, 2), ("Q8_0", 32, 34), ("Q4_0", 32, 18), ("Q4_1", 32, 20),
        ("Q5_0", 32, 22), ("Q5_1", 32, 24), ("Q4_K", 256, 144), ("Q5_K", 256, 176), ("Q6_K", 256, 210),
    ];
    assert_eq!(sizes, expected);
    assert_eq!(
        ValueType::ALL.map(ValueType::name).join(" "),
        "u8 i8 u16 i16 u32 i32 f32 bool string array u64 i64 f64"
    );
}
