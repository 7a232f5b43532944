//! The table: which ops at which shapes. A new op adds a paragraph to one of the rooms below; `tests/house.rs` says so if
//! it does not.
//!
//! It is one table for `cargo test`, `gristmill verify` and the mutants, in the library and not in `tests/`, so that a user
//! can verify the adapter of their own machine with what the tests run. Shapes are chosen by where code branches: one, the
//! ends of quads, subgroups, tiles and workgroups and their neighbours, none at all, grids that fold, and shapes of real
//! models. A case names its inputs and seeds them by its name: a failure can be run alone and sees the same numbers.

mod attention;
mod batched;
mod cast;
mod elementwise;
mod formats;
mod layers;
mod layout;
mod norms;
mod products;
mod reduce;
mod rows;
mod sample;

use super::Case;
use super::inputs::Inputs;
use super::runner::{Bench, Stop};
use crate::kernel::Format;

/// Work, in elements touched or multiplied, above which a case is large.
const LARGE: usize = 6 << 20;

/// The formats that a tensor may have where a weight may stand.
const FLOATS: [Format; 2] = [Format::F32, Format::F16];

#[derive(Default)]
struct Table(Vec<Case>);

impl Table {
    /// A case named `op detail`, its inputs seeded by that name. The op works on f32.
    fn row(
        &mut self,
        (op, shape_class): (&'static str, &'static str),
        detail: &str,
        work: usize,
        run: impl Fn(&mut Bench<'_>, Inputs) -> Result<f64, Stop> + Send + Sync + 'static,
    ) {
        self.typed((op, "f32", shape_class), detail, work, run);
    }

    /// [`Table::row`] of an op on another element type than f32.
    fn typed(
        &mut self,
        (op, dtype, shape_class): (&'static str, &'static str, &'static str),
        detail: &str,
        work: usize,
        run: impl Fn(&mut Bench<'_>, Inputs) -> Result<f64, Stop> + Send + Sync + 'static,
    ) {
        let name = format!("{op} {detail}");
        let seed = name.clone();
        let run = Box::new(move |bench: &mut Bench<'_>| run(bench, Inputs::new(&seed)));
        self.0.push(Case { name, op, dtype, shape_class, large: work > LARGE, run });
    }
}

/// Every case, in the order of the ops.
pub fn cases() -> Vec<Case> {
    let mut table = Table::default();
    products::products(&mut table);
    batched::batched_products(&mut table);
    layers::layers(&mut table);
    attention::attentions(&mut table);
    norms::norms(&mut table);
    elementwise::elementwise(&mut table);
    reduce::reduces(&mut table);
    cast::casts(&mut table);
    rows::rows(&mut table);
    formats::formats(&mut table);
    layout::layout(&mut table);
    sample::samples(&mut table);
    table.0
}
