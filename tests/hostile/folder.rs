//! Hostile files, continued: folders, shards and their index, and what the file system can do to them.

use std::fs;
use std::path::Path;
use std::time::Instant;

use gristmill::error::Error;
use gristmill::model::Checkpoint;

use super::{Folder, PATIENCE, read_all, valid};
#[cfg(unix)]
use super::{file, small};

const INDEX: &str = "model.safetensors.index.json";

/// The index of a checkpoint: which tensor is in which file.
fn index(entries: &[(&str, &str)]) -> Vec<u8> {
    let entries: Vec<String> = entries.iter().map(|(name, file)| format!(r#""{name}":"{file}""#)).collect();
    format!(r#"{{"metadata":{{"total_size":1}},"weight_map":{{{}}}}}"#, entries.join(",")).into_bytes()
}

/// S21: the index and the shards must tell one story. `total_size` lies in each of these and is not believed.
#[test]
fn shards_and_their_index_must_agree() {
    let [a, b, both] = [["x"].as_slice(), &["y"], &["x", "y"]].map(|names| {
        valid(&names.iter().map(|&name| (name, "U8", [2].as_slice(), [1, 2].as_slice())).collect::<Vec<_>>())
    });
    let (fa, fb) = ("a.safetensors", "b.safetensors");
    let outside = ["../a.safetensors", "/a.safetensors", "d/a.safetensors", "d\\\\a.safetensors", "C:a.safetensors"];
    let padded = |len| {
        let mut index = index(&[("x", fa)]);
        index.resize(len, b' ');
        index
    };
    let mut rows: Vec<(&str, Vec<u8>, &[u8], &str)> = vec![
        ("agree", index(&[("x", fa), ("y", fb)]), &b, ""),
        ("missing shard", index(&[("x", fa), ("y", "c.safetensors")]), &b, "c.safetensors"),
        (
            "tensor in two shards",
            index(&[("x", fa), ("y", fb)]),
            &both,
            "`x`: is in both a.safetensors and b.safetensors",
        ),
        (
            "tensor in another shard",
            index(&[("x", fb), ("y", fa)]),
            &both,
            "`y`: is in b.safetensors; model.safetensors.index.json puts it in a.safetensors",
        ),
        ("a file the index does not name is left alone", index(&[("x", fa)]), &b, ""),
        (
            "tensor the index forgot",
            index(&[("y", fb)]),
            &both,
            "`x`: is in b.safetensors; model.safetensors.index.json does not list it",
        ),
        ("tensor absent", index(&[("x", fa), ("z", fa), ("y", fb)]), &b, "`z`: is not in a.safetensors, where"),
        ("duplicate", index(&[("x", fa), ("x", fb)]), &b, "`x` is given twice"),
        ("empty", index(&[]), &b, "weight_map is empty"),
        ("no map", b"{}".into(), &b, "missing field `weight_map`"),
        ("list", b"[]".into(), &b, "is not a JSON object"),
        ("hidden file", index(&[("x", ".safetensors")]), &b, "does not name a shard"),
        ("other file", index(&[("x", "config.json")]), &b, "`config.json` does not name a shard"),
        ("long name", index(&[("x", &format!("{}.safetensors", "x".repeat(244)))]), &b, "does not name a shard"),
        ("S24 16 MiB", padded(16 << 20), &b, ""),
        ("S24 16 MiB and 1", padded((16 << 20) + 1), &b, "the limit for this"),
    ];
    rows.extend(outside.map(|file| ("outside", index(&[("x", file)]), b.as_slice(), "does not name a shard")));
    for (id, index, second, words) in rows {
        let folder = Folder::with(&[(INDEX, &index), (fa, &a), (fb, second)]);
        let start = Instant::now();
        match folder.open() {
            Ok(checkpoint) => {
                assert!(words.is_empty(), "{id}: loaded");
                read_all(&checkpoint);
            }
            Err(error) => assert!(!words.is_empty() && error.to_string().contains(words), "{id}: {error}"),
        }
        assert!(start.elapsed() < PATIENCE, "{id}");
    }
}

#[test]
fn shards_have_a_cap() {
    for count in [200, 201] {
        let files: Vec<String> = (0..count).map(|i| format!("{i}.safetensors")).collect();
        let names: Vec<String> = (0..count).map(|i| format!("t{i}")).collect();
        let entries: Vec<(&str, &str)> = names.iter().zip(&files).map(|(n, f)| (n.as_str(), f.as_str())).collect();
        let folder = Folder::with(&[(INDEX, &index(&entries))]);
        for (name, file) in &entries {
            fs::write(folder.path(file), valid(&[(name, "U8", &[1], &[7])])).unwrap();
        }
        match folder.open() {
            Ok(checkpoint) => assert!(count == 200 && checkpoint.names().count() == 200),
            Err(error) => assert!(count == 201 && error.to_string().contains("more than 200 shards"), "{error}"),
        }
    }
}

#[test]
fn a_folder_says_what_it_lacks() {
    let says = |path: &Path, words: &str| match Checkpoint::open(path) {
        Err(error @ Error::Io { .. }) => assert!(error.to_string().contains(words), "{error}"),
        other => panic!("{words}: {other:?}"),
    };
    let folder = Folder::new();
    says(&folder.0, "neither model.safetensors nor model.safetensors.index.json");
    says(&folder.path("config.json"), "give the folder");
    says(&folder.path("absent"), "config.json");
    fs::create_dir(folder.path("model.safetensors")).unwrap();
    says(&folder.0, "not a regular file");
}

/// S22: a file shortened after it was opened ends in an error; one that was replaced is still the old one.
#[cfg(unix)]
#[test]
fn files_may_change_under_us() {
    let folder = Folder::with(&[("model.safetensors", &small())]);
    let path = folder.path("model.safetensors");
    let checkpoint = folder.open().unwrap();
    fs::write(folder.path("new"), file("{}", 0)).unwrap();
    fs::rename(folder.path("new"), &path).unwrap();
    read_all(&checkpoint);

    fs::write(&path, small()).unwrap();
    let checkpoint = folder.open().unwrap();
    let whole = fs::metadata(&path).unwrap().len();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(whole - 1).unwrap();
    assert!(checkpoint.read("w").is_ok());
    match checkpoint.read("n") {
        Err(Error::BadFile { offset, message, .. }) => {
            assert!(offset == whole - 8 && message.contains("shortened"), "{offset} {message}");
        }
        other => panic!("{other:?}"),
    }
}

/// Names that are not files, and links, which the Hugging Face cache consists of. None of these may block.
#[cfg(unix)]
#[test]
fn only_regular_files_are_read() {
    use std::os::unix::fs::symlink;
    let start = Instant::now();
    for (target, words) in [("/dev/zero", "not a regular file"), ("absent", "model.safetensors: ")] {
        let folder = Folder::new();
        symlink(target, folder.path("model.safetensors")).unwrap();
        let error = folder.open().unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    let folder = Folder::new();
    let made = std::process::Command::new("mkfifo").arg(folder.path("model.safetensors")).status();
    if made.is_ok_and(|status| status.success()) {
        assert!(folder.open().unwrap_err().to_string().contains("not a regular file"));
    } else {
        println!("skipped: no mkfifo here");
    }
    assert!(start.elapsed() < PATIENCE);

    let blobs = Folder::with(&[("0a1b2c", &small())]);
    let folder =
        Folder::with(&[(INDEX, &index(&[("w", "m.safetensors"), ("bias", "m.safetensors"), ("n", "m.safetensors")]))]);
    symlink(blobs.path("0a1b2c"), folder.path("m.safetensors")).unwrap();
    read_all(&folder.open().unwrap());
}
