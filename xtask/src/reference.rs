//! docs/api.md, generated from the comments of the public protos.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, ServiceDescriptorProto};

use crate::run::{Outcome, Step, root};

/// In reading order.
const FILES: [&str; 4] =
    ["roadstead/v1/placement.proto", "roadstead/v1/fleet.proto", "roadstead/v1/admin.proto", "roadstead/v1/types.proto"];
const PAGE: &str = "docs/api.md";

/// The step: the committed page is what the protos say.
pub(crate) fn check(step: &mut Step) -> Result<Outcome> {
    let wanted = page()?;
    let found = std::fs::read_to_string(root().join(PAGE)).unwrap_or_default();
    if found == wanted {
        return Ok(Outcome::ok(""));
    }
    let differs = wanted.lines().zip(found.lines()).position(|(wanted, found)| wanted != found);
    step.say(&format!("first difference in line {}", differs.map_or_else(|| found.lines().count() + 1, |line| line + 1)))?;
    Ok(Outcome::failed(format!("{PAGE} is not what the protos say; `cargo xtask gen` writes it")))
}

/// Writes the page.
pub(crate) fn write() -> Result<bool> {
    std::fs::write(root().join(PAGE), page()?).with_context(|| format!("failed to write {PAGE}"))?;
    println!("wrote {PAGE}");
    Ok(true)
}

/// Comments by path of a file's descriptor (see `SourceCodeInfo.Location.path`).
struct Comments(BTreeMap<Vec<i32>, String>);

impl Comments {
    fn of(file: &FileDescriptorProto) -> Self {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        Self(locations.map(|location| (location.path.clone(), plain(location.leading_comments()))).collect())
    }

    fn at(&self, path: &[i32]) -> &str {
        self.0.get(path).map_or("", String::as_str)
    }
}

/// A comment's lines without the space after the slashes.
fn plain(comment: &str) -> String {
    comment.lines().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n").trim().to_owned()
}

fn page() -> Result<String> {
    let proto = root().join("proto");
    let mut compiler = protox::Compiler::new([&proto]).context("failed to read proto/")?;
    compiler.include_source_info(true).open_files(FILES.map(|file| proto.join(file))).context("the protos do not compile")?;
    let set = compiler.file_descriptor_set();
    let mut out = String::from(
        "# API\n\n<!-- Written by `cargo xtask gen` from proto/; edit the comments there. -->\n\n\
         gRPC over mutual TLS, package `roadstead.v1`. Server reflection and `grpc.health.v1.Health` are served beside it.\n",
    );
    let files: Vec<&FileDescriptorProto> =
        FILES.iter().map(|name| set.file.iter().find(|file| file.name() == *name).context("a proto is missing")).collect::<Result<_>>()?;
    for file in &files {
        let comments = Comments::of(file);
        for (number, service) in file.service.iter().enumerate() {
            write_service(&mut out, service, &comments, &[6, index(number)]);
        }
    }
    for file in &files {
        let comments = Comments::of(file);
        let _ = write!(out, "\n## Messages of {}\n", file.name().rsplit('/').next().unwrap_or_default());
        for (number, message) in file.message_type.iter().enumerate() {
            write_message(&mut out, "", message, &comments, &[4, index(number)]);
        }
        for (number, enumeration) in file.enum_type.iter().enumerate() {
            write_enum(&mut out, "", enumeration, &comments, &[5, index(number)]);
        }
    }
    Ok(out)
}

fn index(number: usize) -> i32 {
    i32::try_from(number).expect("a proto has fewer than 2^31 items")
}

fn write_service(out: &mut String, service: &ServiceDescriptorProto, comments: &Comments, path: &[i32]) {
    let _ = write!(out, "\n## {}\n\n{}\n\n| call | request | response | |\n|---|---|---|---|\n", service.name(), comments.at(path));
    for (number, method) in service.method.iter().enumerate() {
        let side = |streaming: bool, name: &str| format!("{}{}", if streaming { "stream " } else { "" }, linked(name));
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} |",
            method.name(),
            side(method.client_streaming(), method.input_type()),
            side(method.server_streaming(), method.output_type()),
            cell(comments.at(&joined(path, &[2, index(number)])))
        );
    }
}

fn write_message(out: &mut String, outer: &str, message: &DescriptorProto, comments: &Comments, path: &[i32]) {
    if message.options.as_ref().is_some_and(|options| options.map_entry()) {
        return;
    }
    let name = format!("{outer}{}", message.name());
    let _ = write!(out, "\n### {name}\n\n{}\n", comments.at(path));
    if !message.field.is_empty() {
        out.push_str("\n| field | type | |\n|---|---|---|\n");
    }
    for (number, field) in message.field.iter().enumerate() {
        let choice = match field.oneof_index {
            Some(at) if !field.proto3_optional() => {
                let oneof = usize::try_from(at).ok().and_then(|at| message.oneof_decl.get(at));
                format!(" (one of `{}`)", oneof.map_or("", |oneof| oneof.name()))
            }
            Some(_) | None => String::new(),
        };
        let comment = cell(comments.at(&joined(path, &[2, index(number)])));
        let _ = writeln!(out, "| `{}` | {}{choice} | {comment} |", field.name(), kind(field, message));
    }
    let prefix = format!("{name}.");
    for (number, nested) in message.nested_type.iter().enumerate() {
        write_message(out, &prefix, nested, comments, &joined(path, &[3, index(number)]));
    }
    for (number, nested) in message.enum_type.iter().enumerate() {
        write_enum(out, &prefix, nested, comments, &joined(path, &[4, index(number)]));
    }
}

fn write_enum(out: &mut String, outer: &str, enumeration: &EnumDescriptorProto, comments: &Comments, path: &[i32]) {
    let _ = write!(out, "\n### {outer}{}\n\n{}\n\n| value | number | |\n|---|---|---|\n", enumeration.name(), comments.at(path));
    for (number, value) in enumeration.value.iter().enumerate() {
        let comment = cell(comments.at(&joined(path, &[2, index(number)])));
        let _ = writeln!(out, "| `{}` | {} | {comment} |", value.name(), value.number());
    }
}

fn joined(path: &[i32], more: &[i32]) -> Vec<i32> {
    [path, more].concat()
}

/// A comment as a table's cell.
fn cell(comment: &str) -> String {
    comment.replace('\n', " ").replace('|', "\\|")
}

/// A type's name, linked to its place on the page if it is ours.
fn linked(full: &str) -> String {
    match full.strip_prefix(".roadstead.v1.") {
        Some(own) => format!("[{own}](#{})", own.to_lowercase().replace('.', "")),
        None => format!("`{}`", full.trim_start_matches('.')),
    }
}

fn kind(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    let entry = message.nested_type.iter().find(|nested| {
        nested.options.as_ref().is_some_and(|options| options.map_entry()) && field.type_name().ends_with(&format!(".{}", nested.name()))
    });
    if let Some(entry) = entry {
        let part = |number: usize| entry.field.get(number).map(|field| kind(field, entry)).unwrap_or_default();
        return format!("map of {} to {}", part(0), part(1));
    }
    let name = match field.r#type() {
        Type::Message | Type::Enum | Type::Group => linked(field.type_name()),
        Type::Double => "double".to_owned(),
        Type::Float => "float".to_owned(),
        Type::Int64 | Type::Sint64 | Type::Sfixed64 => "int64".to_owned(),
        Type::Uint64 | Type::Fixed64 => "uint64".to_owned(),
        Type::Int32 | Type::Sint32 | Type::Sfixed32 => "int32".to_owned(),
        Type::Uint32 | Type::Fixed32 => "uint32".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::String => "string".to_owned(),
        Type::Bytes => "bytes".to_owned(),
    };
    match (field.label(), field.proto3_optional()) {
        (Label::Repeated, _) => format!("repeated {name}"),
        (Label::Optional | Label::Required, true) => format!("optional {name}"),
        (Label::Optional | Label::Required, false) => name,
    }
}
