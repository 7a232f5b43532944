//! Whole models: against transformers, and against themselves.

mod common;

use std::num::NonZero;

use common::{assert_greedy, cpu, gpu, largest_difference, open, oracle};
use gristmill::model::{
    Config, Dispatches, Family, GenerateOptions, KvType, ModelFiles, Sampler, SessionOptions, StopReason,
};
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
