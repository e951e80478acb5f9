//! Errors of the interpreter in words.

use rsjsonnet_lang::lexer::LexError;
use rsjsonnet_lang::parser::ParseError;
use rsjsonnet_lang::program::AnalyzeError;
use rsjsonnet_lang::program::EvalErrorKind;
use rsjsonnet_lang::program::LoadError;
use rsjsonnet_lang::span::SpanId;
use rsjsonnet_lang::span::SpanManager;

/// What is wrong with a template, and where: `1:1-8 Unknown variable: Invalid`. Lines and columns
/// count from 1; the text starts at byte `start` of what was loaded.
pub(super) fn of_load(
    error: &LoadError,
    spans: &SpanManager,
    loaded: &str,
    start: usize,
) -> String {
    let (span, what) = match error {
        LoadError::Lex(error) => (span_of_lexer(error), words(&format!("{error:?}"))),
        LoadError::Parse(ParseError::Expected { span, instead, .. }) => {
            let token = format!("{instead:?}");
            let inner = token.trim_start_matches("Simple(");
            (*span, format!("Unexpected {}", words(inner).to_lowercase()))
        }
        LoadError::Analyze(AnalyzeError::UnknownVariable { span, name }) => {
            (*span, format!("Unknown variable: {name}"))
        }
        LoadError::Analyze(error) => (span_of_analysis(error), words(&format!("{error:?}"))),
    };
    let (_, from, to) = spans.get_span(span);
    let place = |at: usize| {
        let before = loaded.get(start..at.max(start)).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    };
    let ((line, column), (last_line, last_column)) = (place(from), place(to));
    if (line, column) == (last_line, last_column) {
        format!("{line}:{column} {what}")
    } else if line == last_line {
        format!("{line}:{column}-{last_column} {what}")
    } else {
        format!("({line}:{column})-({last_line}:{last_column}) {what}")
    }
}

/// Why a template has no result for an event.
pub(super) fn of_evaluation(kind: &EvalErrorKind) -> String {
    match kind {
        EvalErrorKind::ExplicitError { message, .. }
        | EvalErrorKind::Other { message, .. }
        | EvalErrorKind::AssertFailed { message: Some(message), .. } => message.clone(),
        EvalErrorKind::UnknownObjectField { field_name, .. } => {
            format!("field does not exist: {field_name}")
        }
        EvalErrorKind::ImportFailed { .. } => "imports are not allowed".to_owned(),
        other => words(&format!("{other:?}")),
    }
}

/// The name of a variant in words: `StackOverflow` is `Stack overflow`.
fn words(debug: &str) -> String {
    let end = debug.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(debug.len());
    let mut words = String::new();
    for (place, letter) in debug[..end].chars().enumerate() {
        if place > 0 && letter.is_ascii_uppercase() {
            words.push(' ');
        }
        words.push(if place > 0 { letter.to_ascii_lowercase() } else { letter });
    }
    words
}

fn span_of_lexer(error: &LexError) -> SpanId {
    match error {
        LexError::InvalidChar { span, .. }
        | LexError::InvalidUtf8 { span, .. }
        | LexError::UnfinishedMultilineComment { span }
        | LexError::LeadingZeroInNumber { span }
        | LexError::MissingFracDigits { span }
        | LexError::MissingExpDigits { span }
        | LexError::MissingDigitAfterUnderscore { span }
        | LexError::ExpOverflow { span }
        | LexError::InvalidEscapeInString { span, .. }
        | LexError::IncompleteUnicodeEscape { span }
        | LexError::InvalidUtf16EscapeSequence { span, .. }
        | LexError::UnfinishedString { span }
        | LexError::MissingLineBreakAfterTextBlockStart { span }
        | LexError::MissingWhitespaceTextBlockStart { span }
        | LexError::InvalidTextBlockTermination { span } => *span,
    }
}

fn span_of_analysis(error: &AnalyzeError) -> SpanId {
    match error {
        AnalyzeError::UnknownVariable { span, .. }
        | AnalyzeError::SelfOutsideObject { self_span: span }
        | AnalyzeError::SuperOutsideObject { super_span: span }
        | AnalyzeError::DollarOutsideObject { dollar_span: span }
        | AnalyzeError::RepeatedLocalName { repeated_span: span, .. }
        | AnalyzeError::RepeatedFieldName { repeated_span: span, .. }
        | AnalyzeError::RepeatedParamName { repeated_span: span, .. }
        | AnalyzeError::PositionalArgAfterNamed { arg_span: span }
        | AnalyzeError::TextBlockAsImportPath { span }
        | AnalyzeError::ComputedImportPath { span } => *span,
    }
}
