//! Whole models: against transformers, and against themselves.

#[path = "models/checkpoints.rs"]
mod checkpoints;
mod common;

use std::num::NonZero;

use common::{assert_greedy, cpu, gpu, largest_difference, open, oracle};
use gristmill::model::{Config, Dispatches, GenerateOptions, KvType, ModelFiles, Sampler, SessionOptions, StopReason};
use gristmill::{ComputeBackend, Error, GpuCompute, GpuModel, Options, Result, Tuning};

/// Every model of `tests/oracle` but a6, which has GPT-2's own width and vocabulary and a test of its own: GPT-2 (a, b); Llama,
/// Qwen2 and Qwen3 (c, d).
const SMALL: [&str; 19] =
    ["a1", "a2", "a3", "a4", "a5", "b1", "b2", "b3", "b4", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "d1", "d2", "d3"];

fn greedy(model: &GpuModel, dispatches: Dispatches, prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let mut session = model.session_with(&SessionOptions { dispatches, ..model.session_options() }).unwrap();
    let options = GenerateOptions { max_tokens, stop: Vec::new(), sampler: Sampler::default() };
    session.generate(prompt, options).unwrap().collect::<Result<_>>().unwrap()
}

/// Logits, nll and greedy ids of one model against transformers.
fn assert_like_transformers(gpu: &GpuCompute, id: &'static str) {
    let oracle = oracle(id);
    let model = oracle.model(gpu);
    let (tokens, vocab) = (oracle.tokens(), model.config().vocab_size);

    let logits = model.session().unwrap().logits(&tokens).unwrap();
    assert_eq!(logits.len(), tokens.len() * vocab);
    for (row, expected) in oracle.logits() {
        let got = logits[row * vocab..][..vocab].iter().map(|&v| f64::from(v));
        let difference = largest_difference(id, got, &expected);
        // f32 against f32, sums in another order: transformers itself is 1e-5 from f64 on these models.
        assert!(difference < 1e-4, "{id}: logits of row {row} differ by {difference:e}");
    }

    let nll = model.session().unwrap().nll(&tokens, |_| ()).unwrap();
    let difference = largest_difference(id, nll, &oracle.nll());
    assert!(difference < 1e-4, "{id}: nll differs by {difference:e}");

    let (prompt, expected, gap) = oracle.greedy();
    for dispatches in [Dispatches::Fewest, Dispatches::Apart] {
        assert_greedy(id, &greedy(&model, dispatches, &prompt, expected.len()), &expected, &gap);
    }
}

/// A wrong step may draw the right tokens; what it leaves in the cache shows.
#[test]
fn what_steps_leave_is_what_a_prompt_would() {
    for gpu in [gpu(), Some(cpu())].into_iter().flatten() {
        for id in SMALL {
            let oracle = oracle(id);
            let model = oracle.model(&gpu);
            let (prompt, ..) = oracle.greedy();
            for (dispatches, parts) in [(Dispatches::Fewest, 1), (Dispatches::Apart, 1), (Dispatches::Fewest, 3)] {
                let options = SessionOptions { dispatches, parts: NonZero::new(parts), ..model.session_options() };
                let mut session = model.session_with(&options).unwrap();
                let new = GenerateOptions { max_tokens: 9, stop: Vec::new(), sampler: Sampler::default() };
                let written: Vec<u32> = session.generate(&prompt, new).unwrap().collect::<Result<_>>().unwrap();
                let after = session.logits(&[1]).unwrap();
                let whole = [&prompt[..], &written, &[1]].concat();
                let mut read = model.session_with(&options).unwrap();
                let logits = read.logits(&whole).unwrap();
                let last = logits[logits.len() - after.len()..].iter().map(|&v| f64::from(v));
                let expected: Vec<f64> = last.collect();
                let difference = largest_difference(id, after.into_iter().map(f64::from), &expected);
                assert!(difference < 1e-4, "{id}, {dispatches:?}, {parts} parts: {difference:e}");
            }
        }
    }
}

#[test]
fn small_models_are_transformers_models() {
    let Some(gpu) = gpu() else { return };
    SMALL.into_iter().for_each(|id| assert_like_transformers(&gpu, id));
}

#[test]
fn small_models_in_chunks_without_immediates_and_subgroups() {
    let options = Options {
        immediates: false,
        subgroups: false,
        // Small enough that embeddings and heads of every model are in several chunks; the caches must still fit.
        max_binding_bytes: Some(48 << 10),
        ..Options::new(ComputeBackend::Gpu)
    };
    let Some(gpu) = open(&options) else { return };
    SMALL.into_iter().for_each(|id| assert_like_transformers(&gpu, id));
}

#[test]
fn small_models_on_the_cpu_backend() {
    let gpu = cpu();
    SMALL.into_iter().for_each(|id| assert_like_transformers(&gpu, id));
    assert!(!gpu.is_gpu());
}

/// GPT-2's own embedding takes 154 MB: more than one binding of an adapter that binds 128 MiB.
#[test]
fn gpt2_width_and_vocabulary() {
    let Some(gpu) = gpu() else { return };
    let oracle = oracle("a6");
    let model = oracle.model(&gpu);
    let tokens = oracle.tokens();
    let logits = model.session().unwrap().logits(&tokens).unwrap();
    let vocab = model.config().vocab_size;
    let start = oracle.last_logits_start();
    let last = logits[(tokens.len() - 1) * vocab..][..start.len()].iter().map(|&v| f64::from(v));
    let difference = largest_difference("a6", last, &start);
    assert!(difference < 1e-4, "logits differ by {difference:e}");
    let nll = model.session().unwrap().nll(&tokens, |_| ()).unwrap();
    assert!(largest_difference("a6", nll, &oracle.nll()) < 1e-4);
    let (prompt, expected, gap) = oracle.greedy();
    assert_greedy("a6", &greedy(&model, Dispatches::Auto, &prompt, expected.len()), &expected, &gap);
}

#[test]
fn cached_is_uncached_at_every_step() {
    let Some(gpu) = gpu() else { return };
    let oracle = oracle("a1");
    let model = oracle.model(&gpu);
    let (tokens, vocab) = (oracle.tokens(), model.config().vocab_size);
    assert!(tokens.len() >= 65);
    let whole = model.session().unwrap().logits(&tokens).unwrap();
    let mut session = model.session().unwrap();
    for (step, &token) in tokens.iter().enumerate() {
        let row: Vec<f64> = whole[step * vocab..][..vocab].iter().map(|&v| f64::from(v)).collect();
        let one = session.logits(&[token]).unwrap();
        let difference = largest_difference("cached", one.into_iter().map(f64::from), &row);
        assert!(difference < 1e-4, "step {step}: {difference:e}");
    }
    // In uneven blocks, across the border between the two product kernels.
    let mut session = model.session().unwrap();
    let mut blocks = Vec::new();
    let mut rest = tokens.as_slice();
    for size in [1, 8, 9, 2, 17, 3, usize::MAX] {
        let (block, tail) = rest.split_at(size.min(rest.len()));
        blocks.extend(session.logits(block).unwrap());
        rest = tail;
    }
    let whole: Vec<f64> = whole.into_iter().map(f64::from).collect();
    assert!(largest_difference("blocks", blocks.into_iter().map(f64::from), &whole) < 1e-4);
}

#[test]
fn a_later_token_changes_no_earlier_row() {
    let Some(gpu) = gpu() else { return };
    let oracle = oracle("a1");
    let model = oracle.model(&gpu);
    let (tokens, vocab) = (oracle.tokens(), model.config().vocab_size);
    let before = model.session().unwrap().logits(&tokens).unwrap();
    for changed in [1, 7, 8, 33, tokens.len() - 1] {
        let mut other = tokens.clone();
        other[changed] = (other[changed] + 1) % vocab as u32;
        let after = model.session().unwrap().logits(&other).unwrap();
        let bits = |logits: &[f32]| logits[..changed * vocab].iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert!(bits(&before) == bits(&after), "token {changed} changed an earlier row");
        let row = changed * vocab..(changed + 1) * vocab;
        assert!(before[row.clone()] != after[row], "token {changed} changed nothing");
    }
}

#[test]
fn every_earlier_token_matters() {
    let Some(gpu) = gpu() else { return };
    let oracle = oracle("a1");
    let model = oracle.model(&gpu);
    let (tokens, vocab) = (oracle.tokens()[..24].to_vec(), model.config().vocab_size);
    let last = |tokens: &[u32]| {
        let mut session = model.session().unwrap();
        session.logits(&tokens[..tokens.len() - 1]).unwrap();
        session.logits(&tokens[tokens.len() - 1..]).unwrap()
    };
    let before = last(&tokens);
    for changed in 0..tokens.len() - 1 {
        let mut other = tokens.clone();
        other[changed] = (other[changed] + 1) % vocab as u32;
        assert!(last(&other) != before, "token {changed} is not attended to");
    }
}

#[test]
fn pipelined_is_serial() {
    let mut runs = Vec::new();
    for depth in [1, 2, 3, 8] {
        let Some(gpu) = open(&Options { depth, ..Options::new(ComputeBackend::Gpu) }) else { return };
        let oracle = oracle("a1");
        let model = oracle.model(&gpu);
        let (prompt, ..) = oracle.greedy();
        let mut session = model.session().unwrap();
        let options = GenerateOptions { max_tokens: 40, stop: Vec::new(), sampler: Sampler::default() };
        let new: Vec<u32> = session.generate(&prompt, options).unwrap().collect::<Result<_>>().unwrap();
        // What the pipelined steps left in the cache, seen through one more token.
        let after: Vec<u32> = session.logits(&[1]).unwrap().iter().map(|v| v.to_bits()).collect();
        runs.push((new, after));
    }
    assert!(runs.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_decoded_token_creates_and_uploads_nothing() {
    let Some(gpu) = gpu_of_its_own() else { return };
    let cut = |dispatches, kv| SessionOptions { dispatches, kv, ..SessionOptions::new(&Config::new(1, 1, 1, 1, 1)) };
    // Embed, five a layer, head, sample: q|k|v, attention, projection, up (and gate), down.
    decodes_steadily(&gpu, "a2", cut(Dispatches::Fewest, KvType::F32), (5, 3));
    decodes_steadily(&gpu, "c1", cut(Dispatches::Fewest, KvType::F32), (5, 3));
    decodes_steadily(&gpu, "c4", cut(Dispatches::Fewest, KvType::F16), (5, 3));
    // The parts of an attention are put together.
    let parts = SessionOptions { parts: NonZero::new(2), ..cut(Dispatches::Fewest, KvType::F32) };
    decodes_steadily(&gpu, "c1", parts, (6, 3));
    // Two norms a layer more, and the last one.
    decodes_steadily(&gpu, "a2", cut(Dispatches::Apart, KvType::F32), (7, 4));
    decodes_steadily(&gpu, "c1", cut(Dispatches::Apart, KvType::F16), (7, 4));
}

/// However long the context has become.
#[test]
fn four_thousand_tokens_create_nothing() {
    const CONTEXT: usize = 4096;
    let Some(gpu) = gpu_of_its_own() else { return };
    let model = GpuModel::random(&gpu, &Config::new(50, CONTEXT, 16, 1, 2), 1).unwrap();
    for dispatches in [Dispatches::Fewest, Dispatches::Apart] {
        let options = SessionOptions { context: CONTEXT, dispatches, ..model.session_options() };
        let mut session = model.session_with(&options).unwrap();
        let options = GenerateOptions { max_tokens: CONTEXT, stop: Vec::new(), sampler: Sampler::default() };
        let mut generation = session.generate(&[3], options).unwrap();
        for _ in 0..4 {
            generation.next().unwrap().unwrap();
        }
        let warm = gpu.stats();
        assert_eq!(generation.by_ref().map(Result::unwrap).count(), CONTEXT - 1 - 4);
        let now = gpu.stats();
        assert_eq!(now.buffers_created, warm.buffers_created, "{dispatches:?}");
        assert_eq!(now.bind_groups_created, warm.bind_groups_created, "{dispatches:?}");
        assert_eq!(now.pipelines_created, warm.pipelines_created, "{dispatches:?}");
        assert_eq!(now.bytes_uploaded, warm.bytes_uploaded, "{dispatches:?}");
        assert_eq!(generation.stop_reason(), Some(StopReason::ContextFull));
    }
}

/// `per_layer` dispatches, and `others` that a token has but once.
fn decodes_steadily(gpu: &GpuCompute, id: &'static str, options: SessionOptions, (per_layer, others): (u64, u64)) {
    let oracle = oracle(id);
    let model = oracle.model(gpu);
    let (prompt, ..) = oracle.greedy();
    let context = model.session_options().context;
    let mut session = model.session_with(&SessionOptions { context, ..options }).unwrap();
    let options = GenerateOptions { max_tokens: 60, stop: Vec::new(), sampler: Sampler::default() };
    let mut generation = session.generate(&prompt, options).unwrap();
    for _ in 0..8 {
        generation.next().unwrap().unwrap();
    }
    let warm = gpu.stats();
    for _ in 0..50 {
        generation.next().unwrap().unwrap();
    }
    let now = gpu.stats();
    assert_eq!(now.buffers_created, warm.buffers_created);
    assert_eq!(now.bind_groups_created, warm.bind_groups_created);
    assert_eq!(now.pipelines_created, warm.pipelines_created);
    assert_eq!(now.bytes_uploaded, warm.bytes_uploaded);
    // One submission and one readback of a few bytes per token; two steps may be in flight at either snapshot.
    assert!(now.submits - warm.submits <= 50);
    assert!(now.bytes_downloaded - warm.bytes_downloaded <= 52 * 16);
    let per_token = (now.dispatches - warm.dispatches) / (now.submits - warm.submits);
    let layers = model.config().n_layers as u64;
    assert_eq!(per_token, per_layer * layers + others, "{id}");
}

/// Counters are per engine, and tests share the common one.
fn gpu_of_its_own() -> Option<GpuCompute> {
    open(&Options::new(ComputeBackend::Gpu))
}

#[test]
fn the_wrapper_functions_follow_their_contract() {
    for gpu in [gpu(), Some(cpu())].into_iter().flatten() {
        let oracle = oracle("b1");
        let model = oracle.model(&gpu);
        let (vocab, context) = (model.config().vocab_size, model.config().n_positions);
        let (prompt, expected, gap) = oracle.greedy();
        let prompt: Vec<usize> = prompt.into_iter().map(|id| id as usize).collect();

        assert_eq!(model.generate_gpu(&prompt, 0).unwrap(), prompt);
        let all = model.generate_gpu(&prompt, 20).unwrap();
        assert_eq!(all[..prompt.len()], prompt);
        let new: Vec<u32> = all[prompt.len()..].iter().map(|id| *id as u32).collect();
        assert_greedy("generate_gpu", &new, &expected[..20], &gap);
        // The context ends a generation, it does not fail it.
        assert_eq!(model.generate_gpu(&prompt, usize::MAX).unwrap().len(), context);

        let logits = model.forward_gpu(&prompt).unwrap();
        assert_eq!(logits.len(), prompt.len() * vocab);
        let next = model.forward_single_token(3).unwrap();
        let both = model.forward_gpu(&[prompt.as_slice(), &[3]].concat()).unwrap();
        let expected: Vec<f64> = both[prompt.len() * vocab..].iter().map(|&v| f64::from(v)).collect();
        assert!(largest_difference("single token", next.into_iter().map(f64::from), &expected) < 1e-4);

        assert!(matches!(model.generate_gpu(&[], 4), Err(Error::EmptyPrompt)));
        assert!(matches!(model.forward_gpu(&[]), Err(Error::EmptyPrompt)));
        assert!(matches!(model.forward_gpu(&[vocab]), Err(Error::TokenOutOfRange { .. })));
        assert!(matches!(model.forward_gpu(&[usize::MAX]), Err(Error::TokenOutOfRange { .. })));
        let long = vec![0; context + 1];
        assert!(
            matches!(model.forward_gpu(&long), Err(Error::ContextFull { have, limit }) if (have, limit) == (context + 1, context))
        );
        // An error changes nothing: the implicit session still holds prompt and token.
        let again = model.forward_single_token(5).unwrap();
        let whole = model.forward_gpu(&[prompt.as_slice(), &[3, 5]].concat()).unwrap();
        let expected: Vec<f64> = whole[(prompt.len() + 1) * vocab..].iter().map(|&v| f64::from(v)).collect();
        assert!(largest_difference("after errors", again.into_iter().map(f64::from), &expected) < 1e-4);
    }
}

#[test]
fn sessions_stop_rewind_and_go_on() {
    let Some(gpu) = gpu() else { return };
    let oracle = oracle("a3");
    let model = oracle.model(&gpu);
    let (prompt, ids, _) = oracle.greedy();
    let mut session = model.session().unwrap();
    let options =
        |max_tokens, stop: &[u32]| GenerateOptions { max_tokens, stop: stop.to_vec(), sampler: Sampler::default() };

    // A stop token ends it, and is the last one returned.
    let stop = ids[4];
    let end = ids.iter().position(|&id| id == stop).unwrap();
    let mut generation = session.generate(&prompt, options(60, &[stop])).unwrap();
    let new: Vec<u32> = generation.by_ref().collect::<Result<_>>().unwrap();
    assert_eq!((new.as_slice(), generation.stop_reason()), (&ids[..=end], Some(StopReason::StopToken)));
    assert_eq!(session.tokens(), [prompt.as_slice(), &ids[..=end]].concat());

    // Going on without a prompt gives what one run would have given, although steps had run ahead.
    let more: Vec<u32> = session.generate(&[], options(10, &[])).unwrap().collect::<Result<_>>().unwrap();
    assert_eq!(more, ids[end + 1..][..10]);

    // A generation that is dropped half-way keeps what it returned.
    session.rewind(prompt.len()).unwrap();
    let two: Vec<u32> = session.generate(&[], options(50, &[])).unwrap().take(2).collect::<Result<_>>().unwrap();
    assert_eq!(two, ids[..2]);
    let rest: Vec<u32> = session.generate(&[], options(5, &[])).unwrap().collect::<Result<_>>().unwrap();
    assert_eq!(rest, ids[2..7]);

    // Rewinding and writing something else leaves no trace of what was there.
    session.rewind(3).unwrap();
    let rewound = session.logits(&prompt[3..]).unwrap();
    let mut fresh = model.session().unwrap();
    fresh.logits(&prompt[..3]).unwrap();
    assert!(rewound == fresh.logits(&prompt[3..]).unwrap());
    assert!(session.rewind(1000).is_err());

    let mut generation = session.generate(&[], options(0, &[])).unwrap();
    assert!(generation.next().is_none());
    assert_eq!(generation.stop_reason(), Some(StopReason::MaxTokens));
    let mut generation = session.generate(&[], options(usize::MAX, &[])).unwrap();
    let count = generation.by_ref().count();
    assert_eq!(generation.stop_reason(), Some(StopReason::ContextFull));
    assert_eq!(prompt.len() + count, model.config().n_positions);
}

/// Keys and values in halves: 2^-11 of each is lost. What that does to the likelihood of these models was measured at 5e-3 and
/// less; to lose another digit or two would show. A row sees the others rounded, whether they are of its own block or of an earlier
/// one.
#[test]
fn keys_and_values_may_be_halves() {
    for gpu in [gpu_of_its_own(), Some(cpu())].into_iter().flatten() {
        // What ships for an adapter may have other tiles for one row than for several, which sum in another order.
        gpu.set_tuning(Tuning::default());
        for id in ["a1", "c1", "c2", "c4", "d2"] {
            let oracle = oracle(id);
            let model = oracle.model(&gpu);
            let (tokens, vocab) = (oracle.tokens(), model.config().vocab_size);
            let options = SessionOptions { kv: KvType::F16, ..model.session_options() };
            let mut session = model.session_with(&options).unwrap();
            let nll = session.nll(&tokens, |_| ()).unwrap();
            let difference = largest_difference(id, nll, &oracle.nll());
            assert!((1e-6..1e-2).contains(&difference), "{id}: nll differs by {difference:e}");
            println!("{id}: keys and values in halves move the nll by {difference:.1e}");

            // By one kernel each, so that no rounding differs before the halves do.
            let mut in_blocks = |size: usize| {
                session.rewind(0).unwrap();
                let logits = tokens.chunks(size).flat_map(|block| session.logits(block).unwrap());
                logits.map(f32::to_bits).collect::<Vec<u32>>()
            };
            let (single, blocks) = (in_blocks(1), in_blocks(7));
            assert!(single.len() == tokens.len() * vocab && (single == blocks || !gpu.is_gpu()), "{id}");
        }
    }
}

#[test]
fn a_session_has_the_context_it_asks_for() {
    for gpu in [gpu(), Some(cpu())].into_iter().flatten() {
        let oracle = oracle("c1");
        let model = oracle.model(&gpu);
        let (tokens, positions) = (oracle.tokens(), model.config().n_positions);
        assert_eq!(model.session_options().context, positions);
        let options = SessionOptions { context: 20, ..model.session_options() };
        let mut session = model.session_with(&options).unwrap();
        assert_eq!(session.context(), 20);
        let difference = largest_difference("c1", session.nll(&tokens[..20], |_| ()).unwrap(), &oracle.nll()[..19]);
        assert!(difference < 1e-4, "{difference:e}");
        assert!(matches!(session.logits(&[1]), Err(Error::ContextFull { have: 21, limit: 20 })));
        // Slots follow each other by the context of the batch, not by the model's.
        let mut batch = model.batch_with(3, &options).unwrap();
        let both = batch.logits(&[(2, &tokens[..20]), (0, &tokens[5..20])]).unwrap();
        let alone: Vec<f64> =
            model.session().unwrap().logits(&tokens[..20]).unwrap().into_iter().map(f64::from).collect();
        assert!(largest_difference("slot 2", both[0].iter().map(|&v| f64::from(v)), &alone) < 1e-4);
        for context in [0, positions + 1, usize::MAX] {
            let options = SessionOptions { context, ..options };
            let refused = model.session_with(&options).err();
            assert!(matches!(refused, Some(Error::BadOption { option: "context", .. })), "{refused:?}");
        }
        // Two halves of one head share a word.
        let odd = GpuModel::random(&gpu, &Config::new(40, 16, 9, 1, 3), 1).unwrap();
        let refused = odd.session_with(&SessionOptions { kv: KvType::F16, ..odd.session_options() }).err();
        assert!(matches!(refused, Some(Error::BadOption { option: "kv", .. })), "{refused:?}");
    }
    // Positions beyond what is useful to allocate at once.
    let text = r#"{"model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 131072}"#;
    let model = GpuModel::random(&cpu(), &Config::from_json(text).unwrap(), 1).unwrap();
    assert_eq!((model.config().n_positions, model.session().unwrap().context()), (131_072, 4096));
}

/// Of a head that is wider than the memory of a machine, in no time and in no memory.
#[test]
fn a_model_that_does_not_fit_says_so_first() {
    let text = r#"{"model_type": "llama", "vocab_size": 100000, "hidden_size": 8192, "num_hidden_layers": 1000,
        "num_attention_heads": 64, "num_key_value_heads": 8, "intermediate_size": 28672}"#;
    let config = Config::from_json(text).unwrap();
    if cfg!(target_os = "linux") {
        match GpuModel::random(&cpu(), &config, 1).err() {
            Some(Error::DoesNotFit { weights, kv, budget, context: 2048, .. }) => {
                assert_eq!(weights, config.weight_bytes().unwrap());
                assert_eq!(kv, 2 * 1000 * 2048 * 1024 * 4 + 2048 * 128 * 4);
                assert!(budget < weights);
            }
            other => panic!("{other:?}"),
        }
    }
    // Weights are counted as they will be, whatever their types and names.
    for gpu in [gpu(), Some(cpu())].into_iter().flatten() {
        for id in ["b2", "b3", "b4", "d1", "d2", "d3"] {
            let dir = common::folder(id);
            let files = ModelFiles::open(&dir).unwrap();
            let model = GpuModel::load(&gpu, &dir).unwrap();
            let footprint = GpuModel::footprint(&gpu, &files, 1, &model.session_options()).unwrap();
            assert_eq!(footprint.weights, model.weight_bytes(), "{id}");
        }
    }
    // A budget that the weights fit, and nothing else does.
    let Some(gpu) = gpu_of_its_own() else { return };
    let dir = common::folder("d1");
    let files = ModelFiles::open(&dir).unwrap();
    let options = SessionOptions::new(&files.config().unwrap());
    let model = GpuModel::load(&gpu, &dir).unwrap();
    let footprint = GpuModel::footprint(&gpu, &files, 1, &options).unwrap();
    assert_eq!(footprint.weights, model.weight_bytes());
    assert_eq!(footprint.total(), footprint.weights + footprint.kv + footprint.scratch);
    let before = gpu.pool_stats();
    drop(model);
    gpu.pool().unwrap().trim();
    let live = gpu.pool_stats().live_bytes;
    gpu.pool().unwrap().set_budget(Some(live + footprint.weights + footprint.kv / 2));
    let created = gpu.stats().buffers_created;
    let refused = GpuModel::load(&gpu, &dir).err();
    assert!(matches!(refused, Some(Error::DoesNotFit { weights, .. }) if weights == footprint.weights), "{refused:?}");
    assert_eq!(gpu.stats().buffers_created, created, "refused before anything was allocated");
    gpu.pool().unwrap().set_budget(None);
    assert!(GpuModel::load(&gpu, &dir).is_ok() && before.live_bytes > live);
    // Halves take half; more slots take more.
    let of = |slots, kv| GpuModel::footprint(&gpu, &files, slots, &SessionOptions { kv, ..options }).unwrap().kv;
    let angles = of(1, KvType::F32) * 2 - of(2, KvType::F32);
    assert_eq!(of(1, KvType::F32) - angles, 2 * (of(1, KvType::F16) - angles));
    let far = SessionOptions { context: 80, ..options };
    let refused = GpuModel::footprint(&gpu, &files, usize::MAX / 4096, &far).err();
    assert!(matches!(refused, Some(Error::TooLarge { .. })), "{refused:?}");
}

/// What a prompt of several blocks takes, against what was said before.
#[test]
fn scratch_is_about_what_was_estimated() {
    let Some(gpu) = gpu_of_its_own() else { return };
    let text = r#"{"model_type": "llama", "vocab_size": 8000, "hidden_size": 256, "intermediate_size": 700,
        "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 1000}"#;
    let config = Config::from_json(text).unwrap();
    let pool = gpu.pool().unwrap();
    pool.set_budget(Some(0));
    let Some(Error::DoesNotFit { kv, scratch, .. }) = GpuModel::random(&gpu, &config, 1).err() else {
        panic!("it fits")
    };
    pool.set_budget(None);
    let model = GpuModel::random(&gpu, &config, 1).unwrap();
    let before = pool.stats().live_bytes;
    let mut session = model.session().unwrap();
    // Buffers are multiples of 256 bytes, and that of the angles comes from a class of the pool.
    let taken = pool.stats().live_bytes - before;
    assert!((kv..kv + kv / 50).contains(&taken), "{taken} bytes of keys and values, not {kv}");
    session.logits(&(0..600).map(|i| i * 7 % 500).collect::<Vec<u32>>()).unwrap();
    let measured = (pool.stats().peak_bytes - before - taken) as f64 / scratch as f64;
    assert!((0.5..1.25).contains(&measured), "{measured} of the {scratch} bytes estimated");
}

#[test]
fn a_seed_repeats_itself() {
    let Some(gpu) = gpu() else { return };
    let oracle = oracle("a1");
    let model = oracle.model(&gpu);
    let (prompt, ids, _) = oracle.greedy();
    let run = |temperature, seed| {
        let sampler = Sampler { temperature, seed, ..Sampler::default() };
        let options = GenerateOptions { max_tokens: 30, stop: Vec::new(), sampler };
        let mut session = model.session().unwrap();
        session.generate(&prompt, options).unwrap().collect::<Result<Vec<u32>>>().unwrap()
    };
    assert_eq!(run(1.0, 7), run(1.0, 7));
    assert_ne!(run(1.0, 7), run(1.0, 8));
    assert_eq!(run(1e-4, 7), ids[..30]);
}
