//! Templates that are compiled once and called for each event, on one thread.

use std::borrow::Cow;

use rsjsonnet_lang::arena::Arena;
use rsjsonnet_lang::interner::InternedStr;
use rsjsonnet_lang::program::LoadError;
use rsjsonnet_lang::program::Program;
use rsjsonnet_lang::program::Thunk;
use rsjsonnet_lang::program::Value;

use crate::sink::mapping::Event;
use crate::sink::mapping::path::compact;
use crate::sink::mapping::template::Outcome;
use crate::sink::mapping::template::RESULT_LEN_MAX;
use crate::sink::mapping::template::Source;
use crate::sink::mapping::template::calls::Calls;
use crate::sink::mapping::template::calls::KnownPaths;
use crate::sink::mapping::template::calls::NATIVES;
use crate::sink::mapping::template::fault;

/// What a template stands in: the functions that it knows, and one that is called for each event.
const PRELUDE: &str = include_str!("prelude.jsonnet");

/// Deepest stack of calls within a template.
const STACK_MAX: usize = 500;

/// Calls after which an interpreter is worn out: what it interned stays in its arena.
const CALLS_MAX: usize = 10_000;

/// Bytes of JSON after which it is, for the same reason.
const CONVERTED_BYTES_MAX: usize = 16 << 20;

/// An interpreter with compiled templates.
pub(super) struct Engine<'p> {
    program: Program<'p>,
    functions: Vec<Result<(Thunk<'p>, bool), String>>,
    argument: Thunk<'p>,
    paths: KnownPaths,
    calls: usize,
    converted: usize,
}

impl<'p> Engine<'p> {
    /// One without templates.
    pub(super) fn new(arena: &'p Arena) -> Self {
        let mut program = Program::new(arena);
        program.set_max_stack(STACK_MAX);
        for (name, parameters) in NATIVES {
            let parameters: Vec<InternedStr<'p>> =
                parameters.iter().map(|name| program.intern_str(name)).collect();
            let name = program.intern_str(name);
            program.register_native_func(name, &parameters);
        }
        let argument = program.value_to_thunk(&Value::null());
        Self {
            program,
            functions: Vec::new(),
            argument,
            paths: KnownPaths::default(),
            calls: 0,
            converted: 0,
        }
    }

    /// Compiles the next template. One that is none has no results.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub(super) fn add(&mut self, source: &Source) -> Result<(), String> {
        let function = self.compile(&source.content);
        let function = function.map_err(|reason| format!("the template is invalid: {reason}"));
        let added = function.as_ref().map(|_| ()).map_err(Clone::clone);
        self.functions.push(function.map(|function| (function, source.raw)));
        added
    }

    fn compile(&mut self, content: &str) -> Result<Thunk<'p>, String> {
        // By itself first: text that is no expression could be one within the prelude.
        if let Err(error) = self.load(content)
            && !matches!(error, LoadError::Analyze(_))
        {
            return Err(fault::of_load(&error, self.program.span_manager(), content, 0));
        }
        let whole = format!("{PRELUDE}{content}");
        self.load(&whole).map_err(|error| {
            fault::of_load(&error, self.program.span_manager(), &whole, PRELUDE.len())
        })
    }

    fn load(&mut self, text: &str) -> Result<Thunk<'p>, LoadError> {
        let (context, _) = self.program.span_manager_mut().insert_source_context(text.len());
        self.program.load_source(context, text.as_bytes(), true, "template")
    }

    /// The results of all templates for an event, in order.
    pub(super) fn run(&mut self, event: &Event<'_>) -> Vec<Outcome> {
        let mut body = None;
        (0..self.functions.len()).map(|place| self.call(place, event, &mut body)).collect()
    }

    fn call<'e>(
        &mut self,
        place: usize,
        event: &'e Event<'e>,
        body: &mut Option<Result<Cow<'e, str>, String>>,
    ) -> Outcome {
        let (function, raw) = self.functions[place].as_ref().map_err(Clone::clone)?;
        let mut calls = Calls {
            event,
            body,
            paths: &mut self.paths,
            converted: &mut self.converted,
            failed: None,
        };
        let arguments = std::slice::from_ref(&self.argument);
        let called = self.program.eval_call(function, arguments, &[], &mut calls);
        self.calls += 1;
        let failed = calls.failed;
        let value =
            called.map_err(|error| failed.unwrap_or_else(|| fault::of_evaluation(&error.kind)))?;
        let text = match value.to_string() {
            Some(text) if *raw => text,
            _ => {
                let json = self.program.manifest_json(&value, false);
                let json = json.map_err(|error| fault::of_evaluation(&error.kind))?;
                let mut text = String::with_capacity(json.len());
                compact(&json, &mut text);
                text
            }
        };
        drop(value);
        self.program.maybe_gc();
        if text.len() > RESULT_LEN_MAX {
            let len = text.len();
            return Err(format!("the result has {len} bytes, {RESULT_LEN_MAX} are allowed").into());
        }
        Ok(text)
    }

    /// True if another one should take over.
    pub(super) fn is_worn_out(&self) -> bool {
        self.calls >= CALLS_MAX || self.converted >= CONVERTED_BYTES_MAX
    }
}
