//! Several sequences in one batch: each as if it were alone; and how their tokens are chosen.

mod common;

use common::{cpu, gpu, open};
use gristmill::model::{
    Batch, Config, Dispatches, GenerateOptions, KvType, Request, Sampler, SessionOptions, StopReason,
};
use gristmill::ops::Row;
use gristmill::{ComputeBackend, Error, GpuCompute, GpuModel, Options, Result, reference};

const VOCAB: usize = 97;

fn model(gpu: &GpuCompute) -> GpuModel {
    GpuModel::random(gpu, &Config::new(VOCAB, 300, 32, 2, 4), 5).unwrap()
}

/// A Qwen3, whose rows are turned by their positions, with keys and values as floats or halves.
fn turning_model(gpu: &GpuCompute, kv: KvType) -> GpuModel {
    let text = r#"{"model_type": "qwen3", "vocab_size": 97, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 300}"#;
    let config = Config::from_json(text).unwrap();
    GpuModel::random_with(gpu, &config, 5, &SessionOptions { kv, ..SessionOptions::new(&config) }).unwrap()
}

/// Tokens that differ from sequence to sequence.
fn prompt(of: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * i + 31 * of + 7 * i + 3) % VOCAB) as u32).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|v| v.to_bits()).collect()
}

fn parts(prompts: &[Vec<u32>]) -> Vec<(usize, &[u32])> {
    prompts.iter().enumerate().map(|(slot, prompt)| (slot, prompt.as_slice())).collect()
}

/// Largest difference relative to the largest logit.
fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(0.0f32, |max, v| max.max(v.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / scale
}

#[test]
fn ragged_sequences_are_as_if_alone() {
    for gpu in [gpu(), Some(cpu())].into_iter().flatten() {
        // Where one kernel's rounding differs from another's, a half may be another one.
        let halves = turning_model(&gpu, KvType::F16);
        for (model, near) in [(model(&gpu), 1e-5), (turning_model(&gpu, KvType::F32), 1e-5), (halves, 1e-2)] {
            ragged_sequences_of(&model, &gpu, near);
        }
    }
}

fn ragged_sequences_of(model: &GpuModel, gpu: &GpuCompute, near: f32) {
    // (lengths, whether one kernel serves the batch and each alone): a few rows together and alone; many rows together
    // and alone; the third sequence straddles two blocks of rows; few alone and many together.
    let table: [(&[usize], bool); 5] = [
        (&[1, 2, 4], true),
        (&[1, 1, 1, 1, 1, 1, 1, 1], true),
        (&[9, 40, 17], true),
        (&[90, 90, 90, 90], true),
        (&[3, 40, 1, 7], false),
    ];
    for (lengths, one_kernel) in table {
        let prompts: Vec<Vec<u32>> = lengths.iter().enumerate().map(|(of, &len)| prompt(of, len)).collect();
        let mut batch = model.batch(lengths.len()).unwrap();
        let together = batch.logits(&parts(&prompts)).unwrap();
        let mut again = model.batch(lengths.len()).unwrap();
        let last = again.last_logits(&parts(&prompts)).unwrap();
        for (slot, prompt) in prompts.iter().enumerate() {
            let alone = model.session().unwrap().logits(prompt).unwrap();
            let of_last = &alone[alone.len() - VOCAB..];
            assert!(difference(&together[slot], &alone) < near, "{lengths:?}, slot {slot}");
            assert!(difference(&last[slot], of_last) < near, "{lengths:?}, slot {slot}, last");
            if one_kernel && gpu.is_gpu() {
                assert!(bits(&together[slot]) == bits(&alone), "{lengths:?}: slot {slot} has other bits");
            }
            assert_eq!(batch.tokens(slot), prompt);
        }
    }
}

#[test]
fn appended_in_turns() {
    for gpu in [gpu(), Some(cpu())].into_iter().flatten() {
        let model = model(&gpu);
        let mut batch = model.batch(3).unwrap();
        let mut alone: Vec<_> = (0..3).map(|_| model.session().unwrap()).collect();
        // Slots in any order, some left out, positions apart.
        for (turn, slots) in [vec![2, 0], vec![1], vec![0, 1, 2], vec![1, 0]].into_iter().enumerate() {
            let prompts: Vec<(usize, Vec<u32>)> =
                slots.iter().map(|&s| (s, prompt(10 * turn + s, 1 + (s + turn) % 3))).collect();
            let parts: Vec<(usize, &[u32])> = prompts.iter().map(|(slot, prompt)| (*slot, prompt.as_slice())).collect();
            let together = batch.logits(&parts).unwrap();
            for ((slot, prompt), logits) in parts.iter().zip(&together) {
                let expected = alone[*slot].logits(prompt).unwrap();
                assert!(difference(logits, &expected) < 1e-5, "turn {turn}, slot {slot}");
                assert!(!gpu.is_gpu() || bits(logits) == bits(&expected), "turn {turn}, slot {slot}");
            }
        }
    }
}

fn write(batch: &mut Batch, requests: &[Request<'_>], sampler: Sampler) -> Vec<(Vec<u32>, Option<StopReason>)> {
    let mut new = vec![Vec::new(); batch.slots()];
    let mut generation = batch.generate(requests, sampler).unwrap();
    for item in generation.by_ref() {
        let (slot, token) = item.unwrap();
        new[slot].push(token);
    }
    let reasons: Vec<_> = (0..new.len()).map(|slot| generation.stop_reason(slot)).collect();
    new.into_iter().zip(reasons).collect()
}

#[test]
fn a_batch_writes_what_each_would_alone() {
    for gpu in [gpu(), Some(cpu())].into_iter().flatten() {
        a_batch_of_writes(&model(&gpu));
        a_batch_of_writes(&turning_model(&gpu, KvType::F32));
    }
}

fn a_batch_of_writes(model: &GpuModel) {
    let prompts: Vec<Vec<u32>> = [5, 1, 290, 12, 30].into_iter().enumerate().map(|(of, len)| prompt(of, len)).collect();
    let limits = [60, 45, 1000, 0, 50];
    let alone = |of: usize, max_tokens: usize, stop: &[u32]| {
        let mut session = model.session().unwrap();
        let options = GenerateOptions { max_tokens, stop: stop.to_vec(), sampler: Sampler::default() };
        let mut generation = session.generate(&prompts[of], options).unwrap();
        let new: Vec<u32> = generation.by_ref().collect::<Result<_>>().unwrap();
        (new, generation.stop_reason())
    };
    // The last one stops at a token that it is known to write in the middle.
    let stop = [alone(4, 50, &[]).0[20]];
    let stops: [&[u32]; 5] = [&[], &[], &[], &[], &stop];
    let request = |slot: usize| Request { slot, prompt: &prompts[slot], max_tokens: limits[slot], stop: stops[slot] };
    let mut batch = model.batch(5).unwrap();
    let written = write(&mut batch, &[request(3), request(0), request(4), request(1), request(2)], Sampler::default());
    for (slot, found) in written.iter().enumerate() {
        assert_eq!(*found, alone(slot, limits[slot], stops[slot]), "slot {slot}");
        assert_eq!(batch.tokens(slot), [prompts[slot].as_slice(), &found.0].concat());
    }
    let reasons: Vec<_> = written.iter().map(|(_, reason)| reason.unwrap().name()).collect();
    assert_eq!(reasons, ["max_tokens", "max_tokens", "context_full", "max_tokens", "stop_token"]);

    // Those that can go on do, from where they ended, although steps had run ahead.
    let more = |slot| Request { slot, prompt: &[], max_tokens: 10, stop: &[] };
    let on = write(&mut batch, &[more(0), more(4)], Sampler::default());
    assert_eq!(on[0].0, alone(0, 70, &[]).0[60..]);
    assert_eq!(on[4].0, alone(4, 50, &[]).0[written[4].0.len()..][..10]);
    // A slot is as new after a rewind to 0, and a dropped generation keeps what it returned.
    batch.rewind(2, 0).unwrap();
    let again = Request { slot: 2, prompt: &prompts[1], max_tokens: 45, stop: &[] };
    let five: Vec<u32> =
        batch.generate(&[again], Sampler::default()).unwrap().take(5).map(|item| item.unwrap().1).collect();
    assert_eq!(five, written[1].0[..5]);
    let rest = write(&mut batch, &[Request { slot: 2, prompt: &[], max_tokens: 40, stop: &[] }], Sampler::default());
    assert_eq!(rest[2].0, written[1].0[5..]);
}

#[test]
fn rewinding_one_slot_leaves_the_others() {
    let Some(gpu) = gpu() else { return };
    let model = model(&gpu);
    let prompts: Vec<Vec<u32>> = [4, 20, 11].into_iter().enumerate().map(|(of, len)| prompt(of, len)).collect();
    let next: Vec<(usize, Vec<u32>)> = (0..3).map(|slot| (slot, prompt(7 + slot, 2))).collect();
    let next: Vec<(usize, &[u32])> = next.iter().map(|(slot, prompt)| (*slot, prompt.as_slice())).collect();
    let run = |rewind: bool| {
        let mut batch = model.batch(3).unwrap();
        batch.logits(&parts(&prompts)).unwrap();
        if rewind {
            batch.rewind(1, 6).unwrap();
            batch.logits(&[(1, &prompt(40, 30))]).unwrap();
            batch.rewind(1, 6).unwrap();
            batch.logits(&[(1, &prompts[1][6..])]).unwrap();
        }
        batch.logits(&next).unwrap()
    };
    let (plain, rewound) = (run(false), run(true));
    for slot in 0..3 {
        assert!(bits(&plain[slot]) == bits(&rewound[slot]), "slot {slot}");
    }
}

#[test]
fn a_token_reaches_later_rows_of_its_own_sequence_only() {
    let Some(gpu) = gpu() else { return };
    let model = model(&gpu);
    let prompts: Vec<Vec<u32>> = [14, 100, 60, 110].into_iter().enumerate().map(|(of, len)| prompt(of, len)).collect();
    let before = model.batch(4).unwrap().logits(&parts(&prompts)).unwrap();
    for (of, at) in [(0, 13), (1, 0), (2, 1), (3, 40), (3, 90)] {
        let mut changed = prompts.clone();
        changed[of][at] = (changed[of][at] + 1) % VOCAB as u32;
        let after = model.batch(4).unwrap().logits(&parts(&changed)).unwrap();
        for slot in 0..4 {
            let same = if slot == of { at * VOCAB } else { before[slot].len() };
            assert!(bits(&before[slot][..same]) == bits(&after[slot][..same]), "slot {slot} saw token {at} of {of}");
        }
        let row = at * VOCAB..(at + 1) * VOCAB;
        assert!(before[of][row.clone()] != after[of][row], "token {at} of {of} changed nothing");
    }
}

#[test]
fn errors_change_no_sequence() {
    for gpu in [gpu(), Some(cpu())].into_iter().flatten() {
        let model = model(&gpu);
        let mut batch = model.batch(2).unwrap();
        batch.logits(&[(0, &[1, 2, 3])]).unwrap();
        let long = vec![0; 301];
        assert!(matches!(batch.logits(&[(0, &[4]), (1, &[])]), Err(Error::EmptyPrompt)));
        assert!(matches!(batch.logits(&[(0, &[4]), (1, &[97])]), Err(Error::TokenOutOfRange { token: 97, .. })));
        assert!(matches!(
            batch.logits(&[(1, &[4]), (0, &long[..298])]),
            Err(Error::ContextFull { have: 301, limit: 300 })
        ));
        assert!(matches!(batch.last_logits(&[(1, &[4]), (2, &[4])]), Err(Error::Shape { .. })));
        assert!(matches!(batch.logits(&[(1, &[4]), (1, &[4])]), Err(Error::Shape { .. })));
        assert!(matches!(batch.rewind(0, 4), Err(Error::Shape { .. })));
        assert!(matches!(batch.rewind(2, 0), Err(Error::Shape { .. })));
        let request = |slot, prompt| Request { slot, prompt, max_tokens: 3, stop: &[] };
        let generate =
            |batch: &mut Batch, requests: &[Request<'_>], sampler| batch.generate(requests, sampler).map(drop);
        let greedy = Sampler::default();
        assert!(matches!(generate(&mut batch, &[request(0, &[4]), request(1, &[])], greedy), Err(Error::EmptyPrompt)));
        assert!(matches!(generate(&mut batch, &[request(0, &[]), request(0, &[4])], greedy), Err(Error::Shape { .. })));
        let bad = Sampler { top_p: 2.0, ..greedy };
        assert!(matches!(
            generate(&mut batch, &[request(0, &[4])], bad),
            Err(Error::BadOption { option: "top_p", .. })
        ));
        assert_eq!(
            (batch.tokens(0), batch.tokens(1), batch.tokens(2)),
            ([1, 2, 3].as_slice(), [].as_slice(), [].as_slice())
        );
        let alone = model.session().unwrap().logits(&[1, 2, 3, 4]).unwrap();
        let next = batch.logits(&[(0, &[4])]).unwrap();
        assert!(difference(&next[0], &alone[3 * VOCAB..]) < 1e-5);
    }
}

#[test]
fn a_step_of_a_batch_creates_and_uploads_nothing() {
    let Some(gpu) = open(&Options::new(ComputeBackend::Gpu)) else { return };
    let model = model(&gpu);
    let prompts: Vec<Vec<u32>> = (0..3).map(|of| prompt(of, 3 + of)).collect();
    let requests: Vec<Request<'_>> =
        parts(&prompts).into_iter().map(|(slot, prompt)| Request { slot, prompt, max_tokens: 60, stop: &[] }).collect();
    for sampler in [(0.0, 0, 1.0), (0.8, 0, 1.0), (0.8, 40, 0.9)] {
        let (temperature, top_k, top_p) = sampler;
        let options = SessionOptions { dispatches: Dispatches::Fewest, ..model.session_options() };
        let mut batch = model.batch_with(3, &options).unwrap();
        let mut generation = batch.generate(&requests, Sampler { temperature, top_k, top_p, seed: 3 }).unwrap();
        generation.by_ref().take(3 * 8).for_each(|item| assert!(item.is_ok()));
        let warm = gpu.stats();
        generation.by_ref().take(3 * 40).for_each(|item| assert!(item.is_ok()));
        let now = gpu.stats();
        assert_eq!(now.buffers_created, warm.buffers_created);
        assert_eq!(now.bind_groups_created, warm.bind_groups_created);
        assert_eq!(now.pipelines_created, warm.pipelines_created);
        assert_eq!(now.bytes_uploaded, warm.bytes_uploaded);
        assert_eq!(now.submits - warm.submits, 40, "one submission for all sequences");
        assert_eq!((now.dispatches - warm.dispatches) / 40, 5 * 2 + 3);
    }
}

/// What was drawn is what the twin draws from the logits of the same tokens, for the same seed, wherever it was done.
#[test]
fn the_same_seed_is_the_same_text_wherever_it_is_drawn() {
    for gpu in [gpu(), Some(cpu())].into_iter().flatten() {
        let model = model(&gpu);
        for (temperature, top_k, top_p) in
            [(1.0, 0, 1.0), (0.7, 40, 0.9), (1.3, 64, 1.0), (0.9, 0, 0.8), (1.0, 80, 0.95)]
        {
            let sampler = Sampler { temperature, top_k, top_p, seed: 0x1234_5678_9abc_def0 };
            let options = GenerateOptions { max_tokens: 220, stop: Vec::new(), sampler };
            let mut session = model.session().unwrap();
            let new: Vec<u32> = session.generate(&[5], options).unwrap().collect::<Result<_>>().unwrap();
            assert_eq!(new.len(), 220);
            let mut replay = model.session().unwrap();
            let (mut token, mut excused) = (5, 0);
            for (position, &drawn) in new.iter().enumerate() {
                let logits = replay.logits(&[token]).unwrap();
                let row = Row { position: position as u32, ..Row::default() };
                let [expected, faults] = reference::sample(&logits, VOCAB, &[row], &sampler)[0];
                assert_eq!(faults, 0);
                if drawn != expected {
                    assert!(near_a_step(&logits, &sampler, position as u32 + 1), "{sampler:?}, token {position}");
                    excused += 1;
                }
                token = drawn;
            }
            assert!(excused <= 2, "{sampler:?}: {excused} of 220 were near a step");
        }
    }
}

/// Whether the uniform, or top-p, is within 10^-4 of a step of the cumulative distribution: above the bound for so small
/// a vocabulary, which `verify` holds each draw to.
fn near_a_step(logits: &[f32], sampler: &Sampler, position: u32) -> bool {
    let candidates = reference::candidates(logits, sampler);
    let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
    let mut sums = vec![0.0];
    candidates.iter().for_each(|(_, weight)| sums.push(sums[sums.len() - 1] + weight / total));
    let kept = sums.iter().copied().find(|sum| *sum >= f64::from(sampler.top_p)).unwrap_or(1.0);
    let at = reference::uniform(sampler.seed, position, 0) * kept;
    sums.iter().any(|sum| (sum - at).abs() < 1e-4 || (sum - f64::from(sampler.top_p)).abs() < 1e-4)
}

/// Each slot has its own draws, the same in every company: they depend on seed, position and slot.
#[test]
fn slots_draw_for_themselves() {
    let Some(gpu) = gpu() else { return };
    let model = model(&gpu);
    let sampler = Sampler { temperature: 1.0, top_k: 30, top_p: 0.95, seed: 9 };
    let request = |slot| Request { slot, prompt: &[1, 2, 3], max_tokens: 40, stop: &[] };
    let together = write(&mut model.batch(3).unwrap(), &[request(0), request(1), request(2)], sampler);
    assert!(together[0] != together[1] && together[1] != together[2]);
    for slot in 0..3 {
        let alone = write(&mut model.batch(3).unwrap(), &[request(slot)], sampler);
        assert_eq!(alone[slot], together[slot], "slot {slot}");
    }
    let mut session = model.session().unwrap();
    let options = GenerateOptions { max_tokens: 40, stop: Vec::new(), sampler };
    let new: Vec<u32> = session.generate(&[1, 2, 3], options).unwrap().collect::<Result<_>>().unwrap();
    assert_eq!(new, together[0].0);
}
