//! Compiled pipelines, kept on disk from one run to the next, so that a model's first token does not wait for a compiler
//! again. One file for each adapter, driver and version of this crate.
//!
//! The driver trusts what it is given back, so nothing reaches it that is not, bit by bit, what this adapter and driver gave:
//! the file names both and carries a checksum. Anything else is as good as no file, and is written anew.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::adapter::AdapterFacts;

/// Longest file that is read, in bytes: pipelines of ours take some kilobytes each.
const MAX_BYTES: u64 = 1 << 28;

pub(super) struct Kept {
    path: PathBuf,
    /// The first line of the file, and the hash of it the file's name.
    key: String,
    cache: wgpu::PipelineCache,
    /// What the driver's data hashed to when it was read.
    known: Option<u64>,
}

impl Kept {
    /// What the folder has for this adapter; `None` where the device keeps nothing.
    pub(super) fn open(device: &wgpu::Device, facts: &AdapterFacts, folder: &Path) -> Option<Kept> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let key = format!("gristmill {} pipelines, {facts}", env!("CARGO_PKG_VERSION"));
        let path = folder.join(format!("pipelines-{:016x}.bin", fnv1a64(key.as_bytes())));
        let data = read(&path, &key);
        let descriptor =
            wgpu::PipelineCacheDescriptor { label: Some("gristmill"), data: data.as_deref(), fallback: true };
        #[expect(
            unsafe_code,
            reason = "the data are what this adapter and driver gave: the key and the checksum say so"
        )]
        // SAFETY: `read` returns nothing else.
        let cache = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(Kept { path, key, cache, known: data.as_deref().map(fnv1a64) })
    }

    pub(super) fn cache(&self) -> &wgpu::PipelineCache {
        &self.cache
    }

    /// Writes what there is now, unless it is what was read. Whole or not at all, whoever else writes it.
    pub(super) fn save(&self) -> std::io::Result<()> {
        let Some(data) = self.cache.get_data().filter(|data| self.known != Some(fnv1a64(data))) else { return Ok(()) };
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut text = String::new();
        let _ = write!(text, "{}\n{:016x}\n", self.key, fnv1a64(&data));
        let unfinished = self.path.with_extension(format!("{}.tmp", std::process::id()));
        let written = fs::write(&unfinished, [text.as_bytes(), &data].concat());
        written.and_then(|()| fs::rename(&unfinished, &self.path)).inspect_err(|_| drop(fs::remove_file(&unfinished)))
    }
}

/// The driver's data in a file, if they are whole and of this key.
fn read(path: &Path, key: &str) -> Option<Vec<u8>> {
    if fs::metadata(path).ok()?.len() > MAX_BYTES {
        return None;
    }
    let bytes = fs::read(path).ok()?;
    let rest = bytes.strip_prefix(key.as_bytes())?.strip_prefix(b"\n")?;
    let (sum, data) = rest.split_at_checked(16)?;
    let data = data.strip_prefix(b"\n")?;
    let whole = sum == format!("{:016x}", fnv1a64(data)).as_bytes();
    if !whole {
        log::warn!("{} is damaged and will be written anew", path.display());
    }
    whole.then(|| data.to_vec())
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo): against damage, not against an enemy, who could write any checksum.
pub(crate) fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::{fnv1a64, read};
    use crate::faults::with_engine;
    use crate::gpu::{ComputeBackend, GpuCompute, Options};

    #[test]
    fn only_whole_files_of_the_same_key_are_read() {
        // The published value for "a".
        assert_eq!(fnv1a64(b"a"), 0xaf63_dc4c_8601_ec8c);
        let path = std::env::temp_dir().join(format!("gristmill-kept-{}.bin", std::process::id()));
        let whole = [format!("key\n{:016x}\n", fnv1a64(b"data")).as_bytes(), b"data"].concat();
        let reads = |bytes: &[u8], key: &str| {
            std::fs::write(&path, bytes).unwrap();
            read(&path, key)
        };
        assert_eq!(reads(&whole, "key").as_deref(), Some(b"data".as_slice()));
        assert_eq!(reads(&whole, "another"), None);
        for end in 0..whole.len() {
            assert_eq!(reads(&whole[..end], "key"), None, "{end}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert_eq!(reads(&bytes, "key"), None, "{at}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(&path, "key"), None);
    }

    #[test]
    fn the_next_engine_finds_what_this_one_compiled() {
        with_engine(|_| (), |gpu, _| finds_what_was_compiled(gpu.device().unwrap().features()));
    }

    fn finds_what_was_compiled(features: wgpu::Features) {
        let folder = std::env::temp_dir().join(format!("gristmill-kept-{}", std::process::id()));
        let options = Options { pipelines: Some(folder.clone()), ..Options::new(ComputeBackend::Gpu) };
        let square = || {
            let gpu = GpuCompute::open(&options).unwrap();
            assert_eq!(
                gpu.matmul(&[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 3.0, 4.0], 2, 2, 2).unwrap(),
                [7.0, 10.0, 15.0, 22.0]
            );
        };
        let files = || std::fs::read_dir(&folder).map_or(0, Iterator::count);
        square();
        if !features.contains(wgpu::Features::PIPELINE_CACHE) {
            assert_eq!(files(), 0);
            return;
        }
        assert_eq!(files(), 1);
        let path = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
        let whole = std::fs::read(&path).unwrap();
        assert!(whole.starts_with(b"gristmill "));
        square();
        // Damage, and a folder that is none, cost the time and nothing else.
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        square();
        let key = String::from_utf8_lossy(whole.split(|&byte| byte == b'\n').next().unwrap()).into_owned();
        assert!(read(&path, &key).is_some(), "written anew");
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::write(&folder, "a file").unwrap();
        square();
        std::fs::remove_file(&folder).unwrap();
    }
}
