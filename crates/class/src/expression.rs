//! Expressions in scalars: `"{{ values.web }}"`. The engine is minijinja, reduced to what is bounded: no statements, no functions, no
//! repetition of texts, filters from a short list, and two budgets for everything that is rendered with one engine (see `meter`).

use std::fmt;
use std::io;
use std::sync::Arc;

use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, State, UndefinedBehavior, filters, tests};
use serde_json::{Map, Value};

use crate::meter::{Meter, Spent, VALUE_BYTES, bytes, names};

/// Characters of one expression. A class computes little; what is longer belongs into the application.
pub const MAX_EXPRESSION_CHARS: usize = 512;
/// Characters of one that a message shows.
const MAX_SHOWN_CHARS: usize = 120;
/// Steps of the engine for one expression: without loops and functions a long one needs a few hundred.
pub const MAX_STEPS: u64 = 2_000;
/// What joins texts and lists and what cuts them: the engine does so without asking, and to the result of what was joined and cut before.
const AGAIN: [char; 3] = ['~', '+', ':'];
/// How many times a value counts that is written as text, character by character.
const WRITTEN: u64 = 4;
/// Bytes of one text that a filter gives: values are smaller, and filters that follow each other must not multiply.
pub const MAX_TEXT_BYTES: usize = 64 << 10;

type Made = Result<String, minijinja::Error>;
type Got = Result<minijinja::Value, minijinja::Error>;

/// An engine that knows only what is allowed, and what all that is evaluated with it may still cost.
#[derive(Debug)]
pub(crate) struct Engine {
    environment: Environment<'static>,
    meter: Arc<Meter>,
}

/// An engine for one rendering, with as many times the room that there is when a class is tried.
pub(crate) fn engine(room: u64) -> Engine {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(MAX_STEPS));
    let meter = Arc::new(Meter::new(room));
    of_texts(&mut environment, &meter);
    of_lists(&mut environment, &meter);
    environment.add_filter("default", filters::default);
    environment.add_filter("int", filters::int);
    environment.add_filter("times", times);
    environment.add_test("defined", tests::is_defined);
    environment.add_test("none", tests::is_none);
    Engine { environment, meter }
}

impl Engine {
    /// What expressions may name, by name.
    pub(crate) fn context(&self, known: &Map<String, Value>) -> minijinja::Value {
        names(&self.meter, known)
    }

    /// Pays for a value that comes out, and for text beside it. What [`evaluate`] gives is paid for.
    pub(crate) fn grow(&self, text: usize) -> Result<(), Spent> {
        self.meter.grow(VALUE_BYTES.saturating_add(bytes(text)))
    }
}

/// Filters of which each goes through a text once.
fn of_texts(environment: &mut Environment<'static>, meter: &Arc<Meter>) {
    let paid = |filter: fn(&str) -> String| {
        let meter = Arc::clone(meter);
        move |text: &str| -> Made {
            meter.work(bytes(text.len()))?;
            bounded(filter(text))
        }
    };
    environment.add_filter("lower", paid(str::to_lowercase));
    environment.add_filter("upper", paid(str::to_uppercase));
    environment.add_filter("trim", paid(|text| text.trim().to_owned()));
    let of = Arc::clone(meter);
    environment.add_filter("replace", move |text: &str, from: &str, to: &str| replace(&of, text, from, to));
    let of = Arc::clone(meter);
    environment.add_filter("split", move |text: &str, by: &str| split(&of, text, by));
    let written = |write: fn(&mut Bounded, &minijinja::Value) -> bool| {
        let meter = Arc::clone(meter);
        move |value: &minijinja::Value| -> Made {
            meter.work_on(value, |_| WRITTEN)?;
            let mut text = Bounded::default();
            if write(&mut text, value) { text.finish() } else { text.finish().map(|_| String::new()) }
        }
    };
    environment.add_filter("string", written(|text, value| fmt::write(text, format_args!("{value}")).is_ok()));
    environment.add_filter("tojson", written(|text, value| serde_json::to_writer(text, value).is_ok()));
}

/// Filters that go through all items of a list.
fn of_lists(environment: &mut Environment<'static>, meter: &Arc<Meter>) {
    let paid = |filter: fn(&minijinja::Value) -> Got| {
        let meter = Arc::clone(meter);
        move |list: &minijinja::Value| -> Got {
            meter.work_on(list, |_| 1)?;
            filter(list)
        }
    };
    environment.add_filter("length", paid(|list| filters::length(list).map(minijinja::Value::from)));
    environment.add_filter("first", paid(filters::first));
    environment.add_filter("last", paid(|list| filters::last(list.clone())));
    let compared = |filter: fn(&State, minijinja::Value, Kwargs) -> Got| {
        let meter = Arc::clone(meter);
        move |state: &State, list: minijinja::Value, options: Kwargs| -> Got {
            // As much for each item as sorting compares it, and as a path has parts at most.
            let path = options.get::<Option<&str>>("attribute")?.map_or(0, |path| bytes(path.len()));
            let often = |items: u64| 1 + path + u64::from(items.max(1).ilog2());
            match list.as_str() {
                // Its items are its characters.
                Some(text) => meter.work(bytes(text.len()).saturating_mul(VALUE_BYTES).saturating_mul(often(bytes(text.len()))))?,
                None => meter.work_on(&list, often)?,
            }
            filter(state, list, options)
        }
    };
    environment.add_filter("min", compared(filters::min));
    environment.add_filter("max", compared(filters::max));
    environment.add_filter("sort", compared(filters::sort));
    let of = Arc::clone(meter);
    environment.add_filter("join", move |items: Vec<minijinja::Value>, by: Option<&str>| join(&of, &items, by.unwrap_or_default()));
}

fn too_long() -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, format!("the text would have more than {MAX_TEXT_BYTES} bytes"))
}

fn bounded(text: String) -> Made {
    if text.len() > MAX_TEXT_BYTES { Err(too_long()) } else { Ok(text) }
}

/// A text that is written piece by piece and takes no more than [`MAX_TEXT_BYTES`].
#[derive(Default)]
struct Bounded {
    text: Vec<u8>,
    is_full: bool,
}

impl Bounded {
    fn finish(self) -> Made {
        if self.is_full { Err(too_long()) } else { Ok(String::from_utf8(self.text).unwrap_or_default()) }
    }
}

impl io::Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.is_full |= self.text.len() + piece.len() > MAX_TEXT_BYTES;
        if self.is_full {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        io::Write::write(self, piece.as_bytes()).map(|_| ()).map_err(|_| fmt::Error)
    }
}

/// Sizes are known before anything is made.
fn replace(meter: &Meter, text: &str, from: &str, to: &str) -> Made {
    meter.work(bytes(text.len()))?;
    let found = if from.is_empty() { text.len() + 1 } else { text.matches(from).count() };
    if text.len().saturating_add(found.saturating_mul(to.len())) > MAX_TEXT_BYTES {
        return Err(too_long());
    }
    Ok(text.replace(from, to))
}

fn split(meter: &Meter, text: &str, by: &str) -> Result<Vec<String>, minijinja::Error> {
    meter.work(bytes(text.len()))?;
    let parts = if by.is_empty() { text.len() + 2 } else { text.matches(by).count() + 1 };
    meter.work(bytes(parts).saturating_mul(VALUE_BYTES))?;
    Ok(text.split(by).map(str::to_owned).collect())
}

fn join(meter: &Meter, items: &[minijinja::Value], by: &str) -> Made {
    let mut text = Bounded::default();
    for (index, item) in items.iter().enumerate() {
        meter.work_on(item, |_| WRITTEN)?;
        let by = if index > 0 { by } else { "" };
        if fmt::write(&mut text, format_args!("{by}{item}")).is_err() {
            break;
        }
    }
    text.finish()
}

fn times(number: i64, by: i64) -> Result<i64, minijinja::Error> {
    number.checked_mul(by).ok_or_else(|| minijinja::Error::new(ErrorKind::InvalidOperation, "the product is too large"))
}

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Its text as people find it, braces included.
    pub(crate) expression: String,
    pub(crate) problem: String,
}

/// Why a scalar has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// An expression of it has none.
    Wrong(Wrong),
    /// There is no room for it beside all others.
    Spent(Spent),
}

impl From<Wrong> for Failure {
    fn from(wrong: Wrong) -> Self {
        Self::Wrong(wrong)
    }
}

impl From<Spent> for Failure {
    fn from(spent: Spent) -> Self {
        Self::Spent(spent)
    }
}

/// A piece of a scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece<'t> {
    Text(&'t str),
    Expression(&'t str),
}

/// Whether a scalar needs the engine at all.
fn is_plain(text: &str) -> bool {
    !text.contains("{{") && !text.contains("{%")
}

/// Looks for mistakes that need no values.
pub(crate) fn check(engine: &Engine, text: &str) -> Result<(), Wrong> {
    if is_plain(text) {
        return Ok(());
    }
    for piece in pieces(text)? {
        if let Piece::Expression(expression) = piece {
            compile(engine, expression)?;
        }
    }
    Ok(())
}

/// A scalar with its expressions' values put in. One that stands alone keeps its type; otherwise the result is text.
pub(crate) fn evaluate(engine: &Engine, text: &str, context: &minijinja::Value) -> Result<Value, Failure> {
    if is_plain(text) {
        engine.grow(text.len())?;
        return Ok(Value::String(text.to_owned()));
    }
    let pieces = pieces(text)?;
    if let [Piece::Expression(expression)] = pieces[..] {
        return value_of(engine, expression, context);
    }
    let mut out = String::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => {
                engine.grow(text.len())?;
                out.push_str(text);
            }
            Piece::Expression(expression) => match value_of(engine, expression, context)? {
                Value::Null => {}
                Value::String(text) => out.push_str(&text),
                value @ (Value::Bool(_) | Value::Number(_)) => out.push_str(&value.to_string()),
                Value::Array(_) | Value::Object(_) => {
                    return Err(
                        wrong(expression, "gives a list or a map, which cannot stand within a text: use the filter `tojson`").into()
                    );
                }
            },
        }
    }
    Ok(Value::String(out))
}

fn wrong(expression: &str, problem: impl Into<String>) -> Wrong {
    wrong_text(&format!("{{{{{expression}}}}}"), problem)
}

fn wrong_text(text: &str, problem: impl Into<String>) -> Wrong {
    Wrong { expression: text.chars().take(MAX_SHOWN_CHARS).collect(), problem: problem.into() }
}

fn value_of(engine: &Engine, expression: &str, context: &minijinja::Value) -> Result<Value, Failure> {
    let again = outside_of_quotes(expression).filter(|c| AGAIN.contains(c)).count();
    engine.meter.begin(expression.len(), again)?;
    let found = compile(engine, expression)?.eval(context.clone());
    let value = found.map(|found| {
        // Before anything is made of it: a few lists that hold each other are many values.
        engine.meter.grow_by(&found)?;
        Ok::<_, Spent>((serde_json::to_value(&found), found))
    });
    // What could not be paid comes first: the rest may be wrong because of it.
    engine.meter.check()?;
    let (value, found) = value.map_err(|error| wrong(expression, words(&error)))??;
    if found.is_undefined() {
        return Err(wrong(expression, "is not defined").into());
    }
    let value = value.map_err(|_| wrong(expression, "gives something that is no value of YAML"))?;
    if value.is_null() && !found.is_none() {
        return Err(wrong(expression, "gives a number that is none").into());
    }
    Ok(value)
}

fn words(error: &minijinja::Error) -> String {
    match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => format!("takes more than {MAX_STEPS} steps"),
        (ErrorKind::UndefinedError, _) => "is not defined, or is a part of something that is not".to_owned(),
        (ErrorKind::UnknownFilter, Some(detail)) => format!(
            "{detail}; there are default, length, first, last, min, max, sort, int, string, lower, upper, trim, replace, join, split, \
             times, tojson"
        ),
        (_, Some(detail)) => detail.to_owned(),
        (kind, None) => kind.to_string(),
    }
}

fn compile<'e>(engine: &'e Engine, expression: &'e str) -> Result<minijinja::Expression<'e, 'e>, Wrong> {
    if expression.chars().count() > MAX_EXPRESSION_CHARS {
        return Err(wrong(expression, format!("has more than {MAX_EXPRESSION_CHARS} characters")));
    }
    if expression.starts_with(['-', '+']) || expression.ends_with(['-', '+']) {
        return Err(wrong(expression, "marks for white space (`{{-`) have no meaning here"));
    }
    if outside_of_quotes(expression).any(|c| c == '*') {
        return Err(wrong(expression, "`*` could repeat a text without bound: use the filter `times`, as in `values.web | times(2)`"));
    }
    engine.environment.compile_expression(expression).map_err(|error| wrong(expression, words(&error)))
}

/// The characters that are not within quotes.
fn outside_of_quotes(text: &str) -> impl Iterator<Item = char> + '_ {
    let (mut quote, mut escaped) = (None, false);
    text.chars().filter(move |c| {
        let within = quote.is_some();
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if *c == '\\' => escaped = true,
            Some(open) if *c == open => quote = None,
            Some(_) => {}
            None if *c == '"' || *c == '\'' => quote = Some(*c),
            None => {}
        }
        !within && quote.is_none()
    })
}

/// What to do about text that is no YAML where it may be because of an expression that begins a value and is not in quotes, which YAML takes
/// for a map; `None` where there is none.
#[must_use]
pub fn unquoted(text: &str) -> Option<String> {
    let begins_a_value = |line: &str, at: usize| {
        let before = line[..at].trim_end();
        before.is_empty() || before.ends_with([':', '-', ',', '[', '{'])
    };
    let first = |line: &str| line.match_indices("{{").map(|(at, _)| at).find(|at| begins_a_value(line, *at));
    let (line, from, number) = text.lines().zip(1..).find_map(|(line, number)| Some((line, first(line)?, number)))?;
    let end = line[from..].find("}}").map_or(line.len(), |end| from + end + 2);
    let expression: String = line[from..end].chars().take(MAX_SHOWN_CHARS).collect();
    Some(format!("put the expression of line {number} into quotes, as in \"{expression}\""))
}

/// Takes a scalar apart. An expression ends at the first `}}` outside of quotes and braces of its own.
fn pieces(text: &str) -> Result<Vec<Piece<'_>>, Wrong> {
    let after = |at: usize, what: &str| text[at..].find(what).map(|found| at + found);
    let (mut pieces, mut at, mut statement) = (Vec::new(), 0, after(0, "{%"));
    loop {
        // Looked for anew only where the last one was within an expression: a text may hold very many of these.
        if statement.is_some_and(|statement| statement < at) {
            statement = after(at, "{%");
        }
        let open = after(at, "{{");
        if let Some(statement) = statement.filter(|statement| open.is_none_or(|open| *statement < open)) {
            return Err(wrong_text(
                &text[statement..],
                "statements (`{% %}`) are not part of classes: an expression may say `a if condition else b`",
            ));
        }
        let Some(open) = open else {
            if at < text.len() {
                pieces.push(Piece::Text(&text[at..]));
            }
            return Ok(pieces);
        };
        if open > at {
            pieces.push(Piece::Text(&text[at..open]));
        }
        let inner = &text[open + 2..];
        let end = end_of(inner).ok_or_else(|| wrong_text(&text[open..], "is not closed by `}}`"))?;
        pieces.push(Piece::Expression(&inner[..end]));
        at = open + 2 + end + 2;
    }
}

fn end_of(inner: &str) -> Option<usize> {
    let (mut quote, mut escaped, mut depth) = (None, false, 0usize);
    for (at, c) in inner.char_indices() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{') => depth += 1,
            (None, '}') if depth > 0 => depth -= 1,
            (None, '}') if inner[at..].starts_with("}}") => return Some(at),
            (None, _) => {}
        }
    }
    None
}
