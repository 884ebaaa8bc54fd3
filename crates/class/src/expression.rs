//! Expressions in scalars: `"{{ values.web }}"`. The engine is minijinja, reduced to what is bounded: no statements, no functions, no
//! repetition of texts, filters from a short list, a budget of steps for each expression and of bytes for everything that comes out.

use minijinja::{Environment, ErrorKind, UndefinedBehavior, filters, tests};
use serde_json::Value;

/// Characters of one expression. A class computes little; what is longer belongs into the application.
pub const MAX_EXPRESSION_CHARS: usize = 512;
/// Characters of one that a message shows.
const MAX_SHOWN_CHARS: usize = 120;
/// Steps of the engine for one expression: without loops and functions a long one needs a few hundred.
pub const MAX_STEPS: u64 = 2_000;
/// Bytes of one text that a filter gives: values are smaller, and filters that follow each other must not multiply.
pub const MAX_TEXT_BYTES: usize = 64 << 10;

type Engine = Environment<'static>;
type Made = Result<String, minijinja::Error>;

/// An engine that knows only what is allowed.
pub(crate) fn engine() -> Engine {
    let mut engine = Engine::empty();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_fuel(Some(MAX_STEPS));
    engine.add_filter("default", filters::default);
    engine.add_filter("length", filters::length);
    engine.add_filter("first", filters::first);
    engine.add_filter("last", filters::last);
    engine.add_filter("min", filters::min);
    engine.add_filter("max", filters::max);
    engine.add_filter("sort", filters::sort);
    engine.add_filter("int", filters::int);
    engine.add_filter("string", |text: &minijinja::Value| bounded(text.to_string()));
    engine.add_filter("lower", |text: &str| bounded(text.to_lowercase()));
    engine.add_filter("upper", |text: &str| bounded(text.to_uppercase()));
    engine.add_filter("trim", |text: &str| bounded(text.trim().to_owned()));
    engine.add_filter("replace", replace);
    engine.add_filter("join", join);
    engine.add_filter("split", |text: &str, by: &str| text.split(by).map(str::to_owned).collect::<Vec<_>>());
    engine.add_filter("times", times);
    engine.add_filter("tojson", |value: &minijinja::Value| bounded(serde_json::to_string(value).unwrap_or_default()));
    engine.add_test("defined", tests::is_defined);
    engine.add_test("none", tests::is_none);
    engine
}

fn too_long() -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, format!("the text would have more than {MAX_TEXT_BYTES} bytes"))
}

fn bounded(text: String) -> Made {
    if text.len() > MAX_TEXT_BYTES { Err(too_long()) } else { Ok(text) }
}

/// Sizes are known before anything is made.
fn replace(text: &str, from: &str, to: &str) -> Made {
    let found = if from.is_empty() { text.len() + 1 } else { text.matches(from).count() };
    if text.len().saturating_add(found.saturating_mul(to.len())) > MAX_TEXT_BYTES {
        return Err(too_long());
    }
    Ok(text.replace(from, to))
}

fn join(items: Vec<minijinja::Value>, by: Option<&str>) -> Made {
    let mut text = String::new();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push_str(by.unwrap_or_default());
        }
        text.push_str(&item.to_string());
        if text.len() > MAX_TEXT_BYTES {
            return Err(too_long());
        }
    }
    Ok(text)
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
pub(crate) fn evaluate(engine: &Engine, text: &str, context: &minijinja::Value) -> Result<Value, Wrong> {
    if is_plain(text) {
        return Ok(Value::String(text.to_owned()));
    }
    let pieces = pieces(text)?;
    if let [Piece::Expression(expression)] = pieces[..] {
        return value_of(engine, expression, context);
    }
    let mut out = String::with_capacity(text.len());
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Expression(expression) => match value_of(engine, expression, context)? {
                Value::Null => {}
                Value::String(text) => out.push_str(&text),
                value @ (Value::Bool(_) | Value::Number(_)) => out.push_str(&value.to_string()),
                Value::Array(_) | Value::Object(_) => {
                    return Err(wrong(expression, "gives a list or a map, which cannot stand within a text: use the filter `tojson`"));
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

fn value_of(engine: &Engine, expression: &str, context: &minijinja::Value) -> Result<Value, Wrong> {
    let found = compile(engine, expression)?.eval(context.clone()).map_err(|error| wrong(expression, words(&error)))?;
    if found.is_undefined() {
        return Err(wrong(expression, "is not defined"));
    }
    let value = serde_json::to_value(&found).map_err(|_| wrong(expression, "gives something that is no value of YAML"))?;
    if value.is_null() && !found.is_none() {
        return Err(wrong(expression, "gives a number that is none"));
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

fn compile<'e>(engine: &'e Environment<'e>, expression: &'e str) -> Result<minijinja::Expression<'e, 'e>, Wrong> {
    if expression.chars().count() > MAX_EXPRESSION_CHARS {
        return Err(wrong(expression, format!("has more than {MAX_EXPRESSION_CHARS} characters")));
    }
    if expression.starts_with(['-', '+']) || expression.ends_with(['-', '+']) {
        return Err(wrong(expression, "marks for white space (`{{-`) have no meaning here"));
    }
    if outside_of_quotes(expression).any(|c| c == '*') {
        return Err(wrong(expression, "`*` could repeat a text without bound: use the filter `times`, as in `values.web | times(2)`"));
    }
    engine.compile_expression(expression).map_err(|error| wrong(expression, words(&error)))
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
    let (mut pieces, mut rest) = (Vec::new(), text);
    loop {
        let (open, statement) = (rest.find("{{"), rest.find("{%"));
        if let Some(at) = statement.filter(|at| open.is_none_or(|open| *at < open)) {
            return Err(wrong_text(
                &rest[at..],
                "statements (`{% %}`) are not part of classes: an expression may say `a if condition else b`",
            ));
        }
        let Some(open) = open else {
            if !rest.is_empty() {
                pieces.push(Piece::Text(rest));
            }
            return Ok(pieces);
        };
        if open > 0 {
            pieces.push(Piece::Text(&rest[..open]));
        }
        let inner = &rest[open + 2..];
        let end = end_of(inner).ok_or_else(|| wrong_text(&rest[open..], "is not closed by `}}`"))?;
        pieces.push(Piece::Expression(&inner[..end]));
        rest = &inner[end + 2..];
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
