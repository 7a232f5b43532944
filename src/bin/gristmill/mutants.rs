//! `mutants`: breaks the shaders, one small change at a time, and says which changes the cases notice.

mod known;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use gristmill::kernels;
use gristmill::verify::mutants::{self, Mutant, Operator, Survey};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::failure::{Failure, Outcome};
use crate::output::{Form, note, object, print, table};
use crate::source::usage;
use known::{Known, Reason};
use workers::{Fate, Task};

/// The least share of mutants that must be caught.
const SHARE: f64 = 0.95;
/// The largest share of mutants that may be called equivalent.
const EQUIVALENT: f64 = 0.02;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only mutants of these operations' kernels, or of kernels by their own names; `formats`: those of the weight formats
    #[arg(long, value_name = "OP,..", value_delimiter = ',')]
    op: Vec<String>,
    /// Only N mutants, spread over kernels and kinds of mistakes
    #[arg(long, value_name = "N")]
    sample: Option<usize>,
    /// Which ones
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// List the mutants and run none
    #[arg(long)]
    list: bool,
    /// Processes that run mutants
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    workers: u8,
    /// Part of the adapter's name; takes precedence over GRISTMILL_ADAPTER and WGPU_ADAPTER_NAME
    #[arg(long, value_name = "NAME")]
    adapter: Option<String>,
    /// Reads tasks from stdin: how this command runs itself
    #[arg(long, hide = true)]
    worker: bool,
    #[command(flatten)]
    form: Form,
}

/// A mutant that was run.
struct Row<'a> {
    index: usize,
    mutant: &'a Mutant,
    fate: Fate,
    /// The case that caught it.
    case: Option<String>,
    known: Option<&'a Known>,
}

pub(crate) fn run(args: &Args) -> Result<Outcome, Failure> {
    if args.worker {
        return workers::serve(args.adapter.clone()).map(|()| Outcome::Done);
    }
    let (all, known) = (mutants::all(), known::known()?);
    let absent = if args.list { BTreeSet::new() } else { mutants::absent(args.adapter.as_deref())? };
    let chosen = chosen(args, &all, &absent)?;
    if !absent.is_empty() {
        note(&format!("left out, as this adapter does not run them: {}", Vec::from_iter(absent).join(", ")));
    }
    if args.list {
        return list(args, &chosen).map(|()| Outcome::Done);
    }
    let start = Instant::now();
    let Some(mut rows) = round(args, own_ops(args, &chosen).as_ref(), &chosen, &known)? else {
        return Ok(Outcome::Wrong);
    };
    if own_ops(args, &chosen).is_some() {
        // Another operation may dispatch the same kernel.
        let alive: Vec<(usize, &Mutant)> =
            rows.iter().filter(|row| row.is_open()).map(|row| (row.index, row.mutant)).collect();
        if !alive.is_empty() {
            let Some(again) = round(args, None, &alive, &known)? else { return Ok(Outcome::Wrong) };
            rows.retain(|row| !row.is_open());
            rows.extend(again);
            rows.sort_by_key(|row| row.index);
        }
    }
    report(args, &rows, start.elapsed())
}

/// The cases with nothing broken, then the mutants. `None`, after it was said, if a case fails with nothing broken.
fn round<'a>(
    args: &Args,
    ops: Option<&BTreeSet<&str>>,
    chosen: &[(usize, &'a Mutant)],
    known: &'a [Known],
) -> Result<Option<Vec<Row<'a>>>, Failure> {
    let survey = survey(args, ops)?;
    if survey.failures.is_empty() {
        return examine(args, &survey, chosen, known).map(Some);
    }
    let line = |line: &String| format!("failed with nothing broken: {line}\n");
    print(&survey.failures.iter().map(line).collect::<String>())?;
    Ok(None)
}

/// The mutants asked for, with their indices, but for those of kernels that are absent.
fn chosen<'a>(args: &Args, all: &'a [Mutant], absent: &BTreeSet<&str>) -> Result<Vec<(usize, &'a Mutant)>, Failure> {
    let name = |mutant: &Mutant| mutant.op.unwrap_or("formats");
    let of = |mutant: &Mutant, asked: &str| asked == name(mutant) || asked == mutant.stem();
    let is_asked_for = |mutant: &Mutant| args.op.is_empty() || args.op.iter().any(|asked| of(mutant, asked));
    let is_wanted = |mutant: &Mutant| is_asked_for(mutant) && !absent.contains(mutant.stem());
    let wanted: Vec<usize> = all.iter().enumerate().filter(|(_, m)| is_wanted(m)).map(|(index, _)| index).collect();
    if let Some(asked) = args.op.iter().find(|asked| !all.iter().any(|mutant| of(mutant, asked))) {
        let known: BTreeSet<&str> = all.iter().flat_map(|mutant| [name(mutant), mutant.stem()]).collect();
        let known = Vec::from_iter(known).join(", ");
        return Err(usage(&format!("no operation and no kernel is `{asked}`; there are {known}")));
    }
    let picked: Vec<usize> = match args.sample {
        None => wanted,
        Some(count) => {
            let mutants: Vec<Mutant> = wanted.iter().filter_map(|&index| all.get(index).cloned()).collect();
            let sample = mutants::sample(&mutants, count, args.seed);
            sample.into_iter().filter_map(|position| wanted.get(position).copied()).collect()
        }
    };
    Ok(picked.into_iter().filter_map(|index| Some((index, all.get(index)?))).collect())
}

fn list(args: &Args, chosen: &[(usize, &Mutant)]) -> Result<(), Failure> {
    if !args.form.json {
        let line = |(_, mutant): &(usize, &Mutant)| format!("{}\n", line_of(mutant));
        print(&chosen.iter().map(line).collect::<String>())?;
    }
    note(&format!("{} mutants", chosen.len()));
    args.form.document(&json!({ "mutants": chosen.iter().map(|(_, m)| json_of(m)).collect::<Vec<Value>>() }))
}

/// `shaders/relu.wgsl:21 builtin: x = max(x) -> x = min(x)`.
fn line_of(mutant: &Mutant) -> String {
    let Mutant { path, line, operator, before, after, .. } = mutant;
    format!("{path}:{line} {}: {before} -> {after}", operator.name())
}

fn json_of(mutant: &Mutant) -> Value {
    let Mutant { path, line, op, operator, before, after, occurrence, .. } = mutant;
    let operator = operator.name();
    json!({ "file": path, "line": line, "op": op, "operator": operator, "before": before, "after": after,
            "occurrence": occurrence })
}

fn bar(length: usize, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(&format!("{{bar:40}} {{pos}}/{{len}} {what}, {{msg}}"));
    ProgressBar::new(length as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// The operations of the mutants that are asked for; `None`: all.
fn own_ops(args: &Args, chosen: &[(usize, &Mutant)]) -> Option<BTreeSet<&'static str>> {
    let readers = || kernels::ALL.iter().filter(|kernel| kernel.format.is_some()).map(|kernel| kernel.op);
    let of = |mutant: &Mutant| mutant.op.map_or_else(|| readers().collect(), |op| vec![op]);
    let some = !args.op.is_empty() || args.sample.is_some();
    some.then(|| chosen.iter().flat_map(|(_, mutant)| of(mutant)).collect())
}

/// The cases of these operations, or of all, with nothing broken.
fn survey(args: &Args, ops: Option<&BTreeSet<&str>>) -> Result<Survey, Failure> {
    let bar = bar(Survey::length(ops), "cases with nothing broken");
    let survey = Survey::run(args.adapter.as_deref(), ops, |case| {
        bar.set_message(case.op);
        bar.inc(1);
    });
    bar.finish_and_clear();
    Ok(survey?)
}

fn examine<'a>(
    args: &Args,
    survey: &Survey,
    chosen: &[(usize, &'a Mutant)],
    known: &'a [Known],
) -> Result<Vec<Row<'a>>, Failure> {
    let mut tasks = Vec::new();
    for (index, mutant) in chosen {
        let jobs = survey.jobs(mutant).into_iter().map(|job| (job, survey.time(&job))).collect();
        tasks.push(Task { index: *index, jobs });
    }
    let names: BTreeMap<usize, Vec<String>> =
        tasks.iter().map(|task| (task.index, task.jobs.iter().map(|(job, _)| survey.name(job)).collect())).collect();
    let bar = bar(tasks.len(), "mutants");
    let mut fates: BTreeMap<usize, Fate> = BTreeMap::new();
    let mut lived = 0;
    workers::run(tasks, args.workers.into(), args.adapter.as_deref(), |index, fate| {
        lived += usize::from(matches!(fate, Fate::Survived | Fate::Unseen));
        bar.set_message(format!("{lived} alive"));
        bar.inc(1);
        if bar.is_hidden() && bar.position().is_multiple_of(100) {
            note(&format!("{} of {} mutants, {lived} alive", bar.position(), chosen.len()));
        }
        fates.insert(index, fate);
    })?;
    bar.finish_and_clear();
    let row = |(index, mutant): &(usize, &'a Mutant)| {
        let fate = fates.get(index).cloned().unwrap_or(Fate::Unseen);
        let case = match fate {
            Fate::Wrong(at, _) | Fate::Hung(at) | Fate::Crashed(at) => {
                names.get(index).and_then(|n| n.get(at)).cloned()
            }
            Fate::Survived | Fate::Unseen => None,
        };
        Row { index: *index, mutant, fate, case, known: known.iter().find(|known| known.is(mutant)) }
    };
    Ok(chosen.iter().map(row).collect())
}

impl Row<'_> {
    fn is_caught(&self) -> bool {
        !matches!(self.fate, Fate::Survived | Fate::Unseen)
    }

    /// It lives, and nobody said why.
    fn is_open(&self) -> bool {
        !self.is_caught() && self.known.is_none()
    }

    /// What is to be said of it, in one word.
    fn word(&self) -> &'static str {
        match (&self.fate, self.known.map(|known| known.reason)) {
            (Fate::Wrong(..), _) => "caught",
            (Fate::Hung(_), _) => "hung",
            (Fate::Crashed(_), _) => "crashed",
            (Fate::Unseen, _) => "never run",
            (Fate::Survived, Some(Reason::Equivalent)) => "equivalent",
            (Fate::Survived, Some(Reason::Invisible)) => "invisible",
            (Fate::Survived, None) => "unexplained",
        }
    }

    fn json(&self) -> Value {
        let mut value = json_of(self.mutant);
        let message = match &self.fate {
            Fate::Wrong(_, message) => Some(message.as_str()),
            _ => self.known.filter(|_| !self.is_caught()).map(|known| known.why.as_str()),
        };
        if let Some(facts) = value.as_object_mut() {
            facts.insert("fate".to_owned(), json!(self.word()));
            facts.insert("case".to_owned(), json!(self.case));
            facts.insert("message".to_owned(), json!(message));
        }
        value
    }
}

fn report(args: &Args, rows: &[Row<'_>], time: Duration) -> Result<Outcome, Failure> {
    let count = |word: &str| rows.iter().filter(|row| row.word() == word).count();
    let caught = rows.iter().filter(|row| row.is_caught()).count();
    let share = caught as f64 / rows.len().max(1) as f64;
    let equivalent = count("equivalent");
    let seconds = time.as_secs_f64();
    if !args.form.json {
        print(&lines(rows))?;
        print(&format!("caught {caught} of {}: {:.1} %\n", rows.len(), 100.0 * share))?;
    }
    note(&format!("{seconds:.0} s"));
    let facts = [
        ("mutants", json!(rows.len())),
        ("caught", json!(caught)),
        ("share", json!(share)),
        ("hung", json!(count("hung"))),
        ("crashed", json!(count("crashed"))),
        ("equivalent", json!(equivalent)),
        ("invisible", json!(count("invisible"))),
        ("unexplained", json!(count("unexplained"))),
        ("never_run", json!(count("never run"))),
        ("sample", json!(args.sample)),
        ("seed", json!(args.seed)),
        ("seconds", json!(seconds)),
        ("rows", rows.iter().map(Row::json).collect::<Value>()),
    ];
    args.form.document(&object(facts))?;
    let explained = count("unexplained") + count("never run") == 0;
    let honest = equivalent as f64 <= EQUIVALENT * rows.len() as f64;
    Ok(if share >= SHARE && explained && honest { Outcome::Done } else { Outcome::Wrong })
}

/// A row per kind of mistake, a row per file, and the survivors.
fn lines(rows: &[Row<'_>]) -> String {
    let group = |title: &str, names: Vec<&str>, of: &dyn Fn(&Row<'_>) -> String| {
        let header = [title, "mutants", "caught", "hung", "crashed", "alive"].map(str::to_owned).to_vec();
        let line = |name: &&str| {
            let group: Vec<&Row<'_>> = rows.iter().filter(|row| of(row) == **name).collect();
            let count = |test: &dyn Fn(&Row<'_>) -> bool| group.iter().filter(|row| test(row)).count().to_string();
            let word = |word: &'static str| count(&move |row| row.word() == word);
            let alive = count(&|row| !row.is_caught());
            vec![(*name).to_owned(), group.len().to_string(), word("caught"), word("hung"), word("crashed"), alive]
        };
        table(&std::iter::once(header).chain(names.iter().map(line)).collect::<Vec<_>>())
    };
    let operators = Operator::ALL.map(Operator::name).to_vec();
    let files = Vec::from_iter(rows.iter().map(|row| row.mutant.stem()).collect::<BTreeSet<&str>>());
    let mut text = group("mistake", operators, &|row| row.mutant.operator.name().to_owned());
    text += "\n";
    text += &group("file", files, &|row| row.mutant.stem().to_owned());
    text += "\n";
    for row in rows.iter().filter(|row| !row.is_caught()) {
        let why = row.known.map_or(String::new(), |known| format!("    {}\n", known.why));
        text += &format!("{}: {}\n{why}", row.word(), line_of(row.mutant));
    }
    text
}
