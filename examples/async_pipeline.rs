//! Many products in flight, as tasks: each is submitted when the queue has room, and awaited while others compute. Nothing here
//! depends on which executor polls the tasks; this one is twenty lines.
//!
//! `cargo run --release --example async_pipeline`

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use gristmill::{ComputeBackend, GpuCompute, Options, Tensor, ops, reference};

const PRODUCTS: usize = 48;
const SIZE: usize = 96;

/// One product from its number to its sum, and whether it is right.
async fn product(gpu: GpuCompute, w: Tensor, i: usize) -> gristmill::Result<(f64, bool)> {
    let data = operand(i);
    let x = gpu.tensor(&data, &[SIZE, SIZE])?;
    let mut pass = gpu.pass();
    let mut out = pass.tensor(&[SIZE, SIZE])?;
    ops::matmul(&mut pass, &x, &w, &mut out)?;
    let result = pass.read::<f32>(&out)?;
    pass.submit_async().await?;
    let got = result.await?;
    // Integers: every order of summation gives the same f32.
    let right = reference::matmul(&data, &operand(0), (SIZE, SIZE, SIZE));
    let equal = got.len() == right.len() && got.iter().zip(&right).all(|(&g, &r)| f64::from(g) == r);
    Ok((got.iter().map(|&v| f64::from(v)).sum(), equal))
}

fn operand(i: usize) -> Vec<f32> {
    (0..SIZE * SIZE).map(|j| ((i * 11 + j * 7) % 17) as f32 - 8.0).collect()
}

/// Woken, a task says its number.
struct Say(usize, Sender<usize>);

impl Wake for Say {
    fn wake(self: Arc<Self>) {
        let _ = self.1.send(self.0);
    }
}

/// Polls tasks whenever they are woken and returns their outputs in order.
fn run_all<T>(tasks: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let (woken, wakes) = channel();
    let mut tasks: Vec<Pin<Box<_>>> = tasks.map(Box::pin).collect();
    let mut outputs: Vec<Option<T>> = tasks.iter().map(|_| None).collect();
    let mut ready: VecDeque<usize> = (0..tasks.len()).collect();
    while outputs.iter().any(Option::is_none) {
        let Some(i) = ready.pop_front().or_else(|| wakes.recv().ok()) else { break };
        if outputs[i].is_some() {
            continue;
        }
        let waker = Waker::from(Arc::new(Say(i, woken.clone())));
        if let Poll::Ready(output) = tasks[i].as_mut().poll(&mut Context::from_waker(&waker)) {
            outputs[i] = Some(output);
        }
    }
    outputs.into_iter().flatten().collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::new(ComputeBackend::Gpu);
    let gpu = pollster::block_on(GpuCompute::open_async(&options))?;
    let w = gpu.tensor(&operand(0), &[SIZE, SIZE])?;

    let start = Instant::now();
    let outcomes = run_all((0..PRODUCTS).map(|i| product(gpu.clone(), w.clone(), i)));
    let seconds = start.elapsed().as_secs_f64();

    let outcomes = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    assert!(outcomes.len() == PRODUCTS && outcomes.iter().all(|&(_, right)| right), "a wrong product");
    let sum: f64 = outcomes.iter().map(|&(sum, _)| sum).sum();
    println!(
        "{PRODUCTS} products of {SIZE} x {SIZE} as tasks, {} in flight at most, on {}: all verified (sum {sum}), {:.0} ms with their \
         verification",
        options.depth,
        gpu.adapter().ok_or("no adapter")?,
        1e3 * seconds
    );
    Ok(())
}
