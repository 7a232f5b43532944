//! Checkpoints that were changed: the model that they are now, or an error.

use gristmill::model::{Config, Family};
use gristmill::{Error, GpuModel, Result};

use super::common::{self, cpu, gpu, largest_difference, oracle};

/// A head beside a tied embedding: the same numbers are one matrix, others are not, as in transformers.
#[test]
fn a_stored_head_is_tied_if_it_is_the_embedding() {
    let gpu = cpu();
    let load = |change: fn(&mut Vec<u8>)| {
        let mut head = None;
        let dir = rewritten_of("d2", "head", |name, data| {
            if name.contains("embed_tokens") {
                head = Some(data.clone());
            }
            Some((name.to_owned(), None))
        });
        let mut bytes = head.unwrap();
        change(&mut bytes);
        append_tensor(&dir, "lm_head.weight", &bytes);
        let model = GpuModel::load(&gpu, &dir).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        model
    };
    let tied = load(|_| ());
    assert!(tied.config().tied_head);
    let oracle = oracle("d2");
    assert!(
        largest_difference("d2", tied.session().unwrap().nll(&oracle.tokens(), |_| ()).unwrap(), &oracle.nll()) < 1e-4
    );
    // The rows of the first and the last token change places.
    let untied = load(|bytes| {
        let (row, end) = (2 * 48, bytes.len());
        let (first, rest) = bytes.split_at_mut(row);
        first.swap_with_slice(&mut rest[end - 2 * row..]);
    });
    assert!(!untied.config().tied_head);
    let rows = |model: &GpuModel| model.session().unwrap().logits(&[5]).unwrap();
    let (a, b, last) = (rows(&tied), rows(&untied), 66);
    assert_eq!((a[0], a[last], a[1]), (b[last], b[0], b[1]));
}

#[test]
fn logits_that_are_not_numbers_are_an_error() {
    for gpu in [gpu(), Some(cpu())].into_iter().flatten() {
        // Weights are finite, activations overflow: 1e30 squared in the first norm's variance.
        let config = Config::new(40, 16, 8, 1, 2);
        let model = GpuModel::random(&gpu, &config, 1).unwrap();
        assert!(model.generate_gpu(&[1, 2], 3).is_ok());
        let error = GpuModel::load(&gpu, &hostile_folder(3e38)).and_then(|model| model.generate_gpu(&[1, 2], 3));
        assert!(matches!(error, Err(Error::NonFinite { .. })), "{error:?}");
        let error = GpuModel::load(&gpu, &hostile_folder(f32::NAN)).map(|_| ());
        assert!(matches!(error, Err(Error::NonFinite { .. })), "{error:?}");
    }
}

/// b1 with every element of the final norm's weight set to `value`.
fn hostile_folder(value: f32) -> std::path::PathBuf {
    rewritten("norm", |name, bytes| {
        if name.ends_with("ln_f.weight") {
            bytes.chunks_exact_mut(4).for_each(|word| word.copy_from_slice(&value.to_le_bytes()));
        }
        Some((name.to_owned(), None))
    })
}

/// One more tensor in the file of d2, of the embedding's shape.
fn append_tensor(dir: &std::path::Path, name: &str, data: &[u8]) {
    let path = dir.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut views = file.tensors();
    let new = safetensors::tensor::TensorView::new(safetensors::Dtype::F16, vec![67, 48], data).unwrap();
    views.push((name.to_owned(), new));
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// b1 in a new folder, each tensor changed in place, renamed, reshaped (`Some` shape) or left out.
fn rewritten(
    label: &str,
    change: impl FnMut(&str, &mut Vec<u8>) -> Option<(String, Option<Vec<usize>>)>,
) -> std::path::PathBuf {
    rewritten_of("b1", label, change)
}

/// The same of another folder of one file.
fn rewritten_of(
    id: &str,
    label: &str,
    mut change: impl FnMut(&str, &mut Vec<u8>) -> Option<(String, Option<Vec<usize>>)>,
) -> std::path::PathBuf {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let unique = format!("gristmill-{label}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let dir = std::env::temp_dir().join(unique);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::copy(common::folder(id).join("config.json"), dir.join("config.json")).unwrap();
    let bytes = std::fs::read(common::folder(id).join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors = Vec::new();
    for (name, view) in file.tensors() {
        let mut data = view.data().to_vec();
        if let Some((name, shape)) = change(&name, &mut data) {
            tensors.push((name, view.dtype(), shape.unwrap_or(view.shape().to_vec()), data));
        }
    }
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    std::fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    dir
}

/// Rows S19 and S20 of the hostile files: tensors that are missing, extra, turned or of another size.
#[test]
fn a_checkpoint_is_the_model_or_an_error() {
    let gpu = cpu();
    let load = |dir: std::path::PathBuf| {
        let result = GpuModel::load(&gpu, &dir).map(|_| ());
        std::fs::remove_dir_all(&dir).unwrap();
        result
    };
    let names_tensor = |result: Result<()>, part: &str| match result {
        Err(Error::BadTensor { name, .. }) => assert!(name.contains(part), "{name}"),
        other => panic!("{part}: {other:?}"),
    };
    assert!(load(rewritten("same", |name, _| Some((name.to_owned(), None)))).is_ok());
    for missing in ["wte.weight", "wpe.weight", "h.1.mlp.c_proj.bias", "ln_f.bias"] {
        let drop = |name: &str, _: &mut Vec<u8>| (!name.ends_with(missing)).then(|| (name.to_owned(), None));
        names_tensor(load(rewritten("missing", drop)), missing);
    }
    // Linear orientation where Conv1D's is due: as many elements, another shape.
    let turned = |name: &str, _: &mut Vec<u8>| {
        Some((name.to_owned(), name.ends_with("h.0.attn.c_attn.weight").then(|| vec![96, 32])))
    };
    names_tensor(load(rewritten("turned", turned)), "c_attn.weight");
    let renamed = |name: &str, _: &mut Vec<u8>| Some((name.replace("ln_f.bias", "ln_g.bias"), None));
    names_tensor(load(rewritten("renamed", renamed)), "ln_f.bias");
    let mut extra = false;
    let added = |name: &str, _: &mut Vec<u8>| {
        // The second layer's tensors under a third layer's name, once.
        let copy = name.contains("h.1.ln_1.bias") && !std::mem::replace(&mut extra, true);
        Some((if copy { name.replace("h.1.ln_1", "h.7.ln_1") } else { name.to_owned() }, None))
    };
    names_tensor(load(rewritten("extra", added)), "h.1.ln_1.bias");
}

/// The same of a Qwen3: every kind of tensor that it has may be missing, turned or too much.
#[test]
fn a_checkpoint_of_another_family_is_the_model_or_an_error() {
    let gpu = cpu();
    let load = |dir: std::path::PathBuf| {
        let result = GpuModel::load(&gpu, &dir);
        std::fs::remove_dir_all(&dir).unwrap();
        result
    };
    let names_tensor = |result: Result<GpuModel>, part: &str, words: &str| match result.map(|_| ()) {
        Err(Error::BadTensor { name, message }) => {
            assert!(name.contains(part) && message.contains(words), "{name}: {message}");
        }
        other => panic!("{part}: {other:?}"),
    };
    let same = load(rewritten_of("d3", "same", |name, _| Some((name.to_owned(), None)))).unwrap();
    assert_eq!(same.config().family, Family::Qwen3);
    for part in [
        "embed_tokens.weight",
        "1.self_attn.k_proj.weight",
        "0.self_attn.q_norm.weight",
        "mlp.up_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    ] {
        let drop = |name: &str, _: &mut Vec<u8>| (!name.ends_with(part)).then(|| (name.to_owned(), None));
        names_tensor(load(rewritten_of("d3", "missing", drop)), part, "missing");
        let turn = |name: &str, data: &mut Vec<u8>| {
            let shape = name.ends_with(part).then(|| vec![data.len() / 4, 1]);
            Some((name.to_owned(), shape))
        };
        names_tensor(load(rewritten_of("d3", "turned", turn)), part, "the config asks for");
    }
    // A bias that the config does not know, and a buffer that old checkpoints have.
    for (new, known) in [("layers.1.self_attn.o_proj.bias", false), ("layers.1.self_attn.rotary_emb.inv_freq", true)] {
        let dir = rewritten_of("d2", "extra", |name, _| Some((name.to_owned(), None)));
        append_tensor(&dir, new, &[0; 2 * 67 * 48]);
        match load(dir) {
            Ok(_) => assert!(known, "{new}"),
            other => names_tensor(other, new, "not part of a Qwen2"),
        }
    }
}
