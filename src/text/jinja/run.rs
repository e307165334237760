//! Runs the tree of a template.

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    rc::Rc,
};

use super::{
    access,
    arguments::Given,
    ast::{
        Arguments, Arithmetic, Assigned, Body, Call, Expr, For, MacroDef, Name, Postfix, Relation,
        Statement,
    },
    datum::{Datum, Dict, Items, Loop, Macro, Namespace, a},
    error::{JinjaError, Result, fail},
    filters::filter,
    functions,
    meter::Meter,
    methods::call_method,
    names::FUNCTIONS,
    ops,
    predicates::test,
    text::{str_of, write_str},
};

/// What the call of a macro or a loop counts, in blocks: it takes as much of the stack.
const CALL: usize = 3;

/// One run of a template.
pub(super) struct Rendering<'l> {
    meter: &'l Meter,
    /// Seconds since 1970, for `strftime_now`.
    now: u64,
    scopes: Vec<Scope>,
    /// The scope of this place.
    scope: usize,
    /// All that were made: emptied at the end, since one may lie in itself.
    namespaces: Vec<Rc<Namespace>>,
    /// `loop`.
    loop_name: Name,
    /// Texts around this place that are values: those of macros, of loops that are called and of blocks that are set.
    inner: usize,
    /// The places of `generation` blocks; `None` once one lay in a text that is a value, whose place nobody knows.
    answers: Option<Vec<Range<usize>>>,
}

/// transformers refuses what it takes for Python's own attributes.
fn check_name(name: &str) -> Result<()> {
    if name.starts_with('_') {
        fail!("the attribute {name:?} of a namespace begins with an underscore");
    }
    Ok(())
}

/// Variables of one block, and the block around.
struct Scope {
    variables: Vec<(Name, Datum)>,
    outer: Option<usize>,
}

/// How a body ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Through,
    Break,
    Continue,
}

impl Drop for Rendering<'_> {
    fn drop(&mut self) {
        self.scopes.clear();
        for namespace in &self.namespaces {
            namespace.entries.take();
        }
    }
}

impl<'l> Rendering<'l> {
    /// A run with the variables that a template is given.
    pub(super) fn new(meter: &'l Meter, variables: Vec<(Name, Datum)>, now: u64) -> Self {
        let outermost = Scope {
            variables,
            outer: None,
        };
        Self {
            meter,
            now,
            scopes: vec![outermost],
            scope: 0,
            namespaces: Vec::new(),
            loop_name: "loop".into(),
            inner: 0,
            answers: Some(Vec::new()),
        }
    }

    /// The text of a template, and the places of its `generation` blocks.
    pub(super) fn template(&mut self, body: &Body) -> Result<(String, Option<Vec<Range<usize>>>)> {
        let mut out = String::new();
        self.body(body, &mut out)?;
        Ok((out, self.answers.take()))
    }

    /// A text that is a value.
    fn text(&mut self, write: impl FnOnce(&mut Self, &mut String) -> Result<()>) -> Result<Datum> {
        let mut text = String::new();
        self.inner += 1;
        let written = write(self, &mut text);
        self.inner -= 1;
        written?;
        Ok(Datum::from(text))
    }

    #[inline(never)]
    fn generation(&mut self, body: &Body, out: &mut String) -> Result<Ending> {
        let begin = out.len();
        let ending = self.with(&[], body, out)?;
        match (&mut self.answers, self.inner) {
            (Some(answers), 0) => {
                self.meter.bytes(size_of::<Range<usize>>() as u64)?;
                answers.push(begin..out.len());
            }
            _ => self.answers = None,
        }
        Ok(ending)
    }

    fn body(&mut self, body: &Body, out: &mut String) -> Result<Ending> {
        for (statement, line) in body.iter() {
            self.meter.enter(1)?;
            let flow = self
                .statement(statement, out)
                .map_err(|error| error.at(*line));
            self.meter.leave(1);
            match flow? {
                Ending::Through => {}
                flow => return Ok(flow),
            }
        }
        Ok(Ending::Through)
    }

    fn statement(&mut self, statement: &Statement, out: &mut String) -> Result<Ending> {
        match statement {
            Statement::Text(text) => {
                self.meter.bytes(text.len() as u64)?;
                self.meter.size((out.len() + text.len()) as u64)?;
                out.push_str(text);
            }
            Statement::Print(value) => {
                let value = self.value(value)?;
                write_str(out, &value, self.meter)?;
            }
            Statement::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if self.value(condition)?.is_true() {
                        return self.body(body, out);
                    }
                }
                return self.body(otherwise, out);
            }
            Statement::For(def) => {
                let items = self.value(&def.items)?;
                self.run_loop(def, &items, 0, out)?;
            }
            Statement::Set(target, value) => {
                let value = self.value(value)?;
                self.assign(target, value)?;
            }
            Statement::SetBlock(target, filters, body) => {
                let text = self.captured(filters, body)?;
                self.assign(target, text)?;
            }
            Statement::Filter(filters, body) => {
                let text = self.captured(filters, body)?;
                write_str(out, &text, self.meter)?;
            }
            Statement::With(values, body) => return self.with(values, body, out),
            Statement::Scope(body) => return self.with(&[], body, out),
            Statement::Generation(body) => return self.generation(body, out),
            Statement::Macro(def) => {
                let found = self.macro_of(def);
                self.set(&def.name, found)?;
            }
            Statement::CallBlock(call, def) => {
                let text = self.call_block(call, def)?;
                write_str(out, &text, self.meter)?;
            }
            Statement::Break => return Ok(Ending::Break),
            Statement::Continue => return Ok(Ending::Continue),
            Statement::Files(name) => {
                fail!("{name:?} needs other templates, and a chat template has none")
            }
        }
        Ok(Ending::Through)
    }

    /// A body in a scope of its own with some variables. Their values see the scope around, and not each other.
    #[inline(never)]
    fn with(
        &mut self,
        values: &[(Assigned, Expr)],
        body: &Body,
        out: &mut String,
    ) -> Result<Ending> {
        let mut assigned = Vec::with_capacity(values.len());
        for (target, value) in values {
            assigned.push((target, self.value(value)?));
        }
        self.scoped(self.scope, |run| {
            for (target, value) in assigned {
                run.assign(target, value)?;
            }
            run.body(body, out)
        })
    }

    /// A macro that sees the scope of this place.
    fn macro_of(&self, def: &Rc<MacroDef>) -> Datum {
        Datum::Macro(Rc::new(Macro {
            def: Rc::clone(def),
            scope: self.scope,
        }))
    }

    /// A body as a value, through some filters.
    #[inline(never)]
    fn captured(&mut self, filters: &[Call], body: &Body) -> Result<Datum> {
        let mut value = self.text(|run, text| {
            run.scoped(run.scope, |run| run.body(body, text))?;
            Ok(())
        })?;
        for call in filters {
            value = self.filtered(&value, call)?;
        }
        Ok(value)
    }

    #[inline(never)]
    fn call_block(&mut self, call: &Expr, def: &Rc<MacroDef>) -> Result<Datum> {
        let caller = self.macro_of(def);
        let Expr::Steps(base, steps) = call else {
            fail!("a call block calls nothing");
        };
        let Some(((Postfix::Call(arguments), _), before)) = steps.split_last() else {
            fail!("a call block calls nothing");
        };
        let called = self.value(base)?;
        let called = self.steps(called, before)?;
        let mut given = self.given(arguments)?;
        given.named.push(("caller".into(), caller));
        self.call(&called, given)
    }

    /// Runs something in a scope of its own.
    fn scoped<T>(&mut self, outer: usize, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let (depth, before) = (self.scopes.len(), self.scope);
        self.scopes.push(Scope {
            variables: Vec::new(),
            outer: Some(outer),
        });
        self.scope = depth;
        let made = run(self);
        self.scopes.truncate(depth);
        self.scope = before;
        made
    }

    fn set(&mut self, name: &Name, value: Datum) -> Result<()> {
        let variables = &mut self.scopes[self.scope].variables;
        self.meter.steps(1 + variables.len() as u64 / 16)?;
        match variables.iter_mut().find(|(found, _)| found == name) {
            Some((_, old)) => *old = value,
            None => variables.push((Rc::clone(name), value)),
        }
        Ok(())
    }

    fn assign(&mut self, target: &Assigned, value: Datum) -> Result<()> {
        match target {
            Assigned::Name(name) => self.set(name, value),
            Assigned::Tuple(targets) => {
                let items = value.iterate(self.meter)?;
                if items.values().len() != targets.len() {
                    fail!(
                        "{} values cannot be assigned to {} names",
                        items.values().len(),
                        targets.len()
                    );
                }
                for (target, value) in targets.iter().zip(items.values()) {
                    self.assign(target, value.clone())?;
                }
                Ok(())
            }
            Assigned::Attribute(name, attribute) => match self.look_up(name)? {
                Datum::Namespace(namespace) => {
                    check_name(attribute)?;
                    let mut entries = namespace.entries.borrow_mut();
                    self.meter.steps(1 + entries.len() as u64 / 16)?;
                    match entries.iter_mut().find(|(found, _)| found == attribute) {
                        Some((_, old)) => *old = value,
                        None => entries.push((Rc::clone(attribute), value)),
                    }
                    Ok(())
                }
                _ => fail!(
                    "{name:?} is no namespace, and only a namespace has attributes that can be set"
                ),
            },
        }
    }

    fn look_up(&self, name: &Name) -> Result<Datum> {
        let mut scope = Some(self.scope);
        while let Some(index) = scope {
            let Scope { variables, outer } = &self.scopes[index];
            self.meter.steps(1 + variables.len() as u64 / 16)?;
            if let Some((_, value)) = variables.iter().find(|(found, _)| found == name) {
                return Ok(value.clone());
            }
            scope = *outer;
        }
        Ok(match FUNCTIONS.iter().find(|found| ***found == **name) {
            Some(found) => Datum::Function(found),
            None => Datum::Undefined(Rc::clone(name)),
        })
    }

    /// A namespace that this run empties at its end.
    fn namespace(&mut self, entries: &Dict) -> Result<Datum> {
        self.meter.bytes(256)?;
        let mut named = Vec::new();
        for (name, value) in entries.entries() {
            let name = str_of(name, self.meter)?;
            check_name(&name)?;
            named.push((name, value.clone()));
        }
        let namespace = Rc::new(Namespace {
            entries: RefCell::new(named),
        });
        self.namespaces.push(Rc::clone(&namespace));
        Ok(Datum::Namespace(namespace))
    }

    #[inline(never)]
    fn run_loop(
        &mut self,
        def: &Rc<For>,
        items: &Datum,
        depth: usize,
        out: &mut String,
    ) -> Result<()> {
        let mut items = items.iterate(self.meter)?;
        let outer = self.scope;
        if let Some(condition) = &def.condition {
            let mut kept = Vec::new();
            for item in items.values() {
                self.meter.steps(1)?;
                let keep = self.scoped(outer, |run| {
                    run.assign(&def.target, item.clone())?;
                    run.value(condition)
                })?;
                if keep.is_true() {
                    kept.push(item.clone());
                }
            }
            items = Items::new(kept, self.meter)?;
        }
        if items.values().is_empty() {
            return self
                .scoped(outer, |run| run.body(&def.otherwise, out))
                .map(drop);
        }
        let state = Rc::new(Loop {
            items: Rc::clone(&items),
            index: Cell::new(0),
            depth,
            last: RefCell::new(None),
            recursion: def.is_recursive.then(|| Rc::clone(def)),
            scope: outer,
        });
        let mut ended = Ok(());
        for (index, item) in items.values().iter().enumerate() {
            state.index.set(index);
            let flow = self.scoped(outer, |run| {
                run.meter.steps(1)?;
                let name = Rc::clone(&run.loop_name);
                run.set(&name, Datum::Loop(Rc::clone(&state)))?;
                run.assign(&def.target, item.clone())?;
                run.body(&def.body, out)
            });
            match flow {
                Ok(Ending::Break) => break,
                Ok(_) => {}
                Err(error) => {
                    ended = Err(error);
                    break;
                }
            }
        }
        // `changed` may have been given the loop itself.
        state.last.take();
        ended
    }

    /// The value of an expression.
    fn value(&mut self, expr: &Expr) -> Result<Datum> {
        self.meter.enter(1)?;
        let value = self.value_inner(expr);
        self.meter.leave(1);
        value
    }

    fn value_inner(&mut self, expr: &Expr) -> Result<Datum> {
        match expr {
            Expr::Const(value) => Ok(Datum::from(value)),
            Expr::Name(name) => self.look_up(name),
            Expr::List(items) => Datum::list(self.values(items)?, self.meter),
            Expr::Tuple(items) => Datum::tuple(self.values(items)?, self.meter),
            Expr::Dict(entries) => self.dict(entries),
            Expr::Not(value) => Ok(Datum::Bool(!self.value(value)?.is_true())),
            Expr::Negative(value) => ops::signed(&self.value(value)?, true),
            Expr::Positive(value) => ops::signed(&self.value(value)?, false),
            Expr::And(all) => self.first(all, false),
            Expr::Or(all) => self.first(all, true),
            Expr::Compare(first, rest) => self.compared(first, rest),
            Expr::Arithmetic(first, rest) => self.computed(first, rest),
            Expr::Concat(all) => self.concat(all),
            Expr::Steps(base, steps) => {
                let base = self.value(base)?;
                self.steps(base, steps)
            }
            Expr::Choice(choice) => {
                let (value, condition, otherwise) = &**choice;
                if self.value(condition)?.is_true() {
                    return self.value(value);
                }
                match otherwise {
                    Some(otherwise) => self.value(otherwise),
                    None => Ok(Datum::undefined("a choice without else")),
                }
            }
        }
    }

    #[inline(never)]
    fn compared(&mut self, first: &Expr, rest: &[(Relation, Expr)]) -> Result<Datum> {
        let mut left = self.value(first)?;
        for (operator, right) in rest {
            let right = self.value(right)?;
            if !ops::compare(*operator, &left, &right, self.meter)? {
                return Ok(Datum::Bool(false));
            }
            left = right;
        }
        Ok(Datum::Bool(true))
    }

    #[inline(never)]
    fn computed(&mut self, first: &Expr, rest: &[(Arithmetic, Expr)]) -> Result<Datum> {
        let mut left = self.value(first)?;
        for (operator, right) in rest {
            let right = self.value(right)?;
            left = ops::arithmetic(*operator, &left, &right, self.meter)?;
        }
        Ok(left)
    }

    #[inline(never)]
    fn values(&mut self, items: &[Expr]) -> Result<Vec<Datum>> {
        items.iter().map(|item| self.value(item)).collect()
    }

    #[inline(never)]
    fn dict(&mut self, entries: &[(Expr, Expr)]) -> Result<Datum> {
        let mut values = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            values.push((self.value(key)?, self.value(value)?));
        }
        Ok(Datum::Dict(Dict::new(values, self.meter)?))
    }

    #[inline(never)]
    fn concat(&mut self, all: &[Expr]) -> Result<Datum> {
        let mut text = String::new();
        for value in all {
            let value = self.value(value)?;
            write_str(&mut text, &value, self.meter)?;
        }
        Ok(Datum::from(text))
    }

    /// The first value that is true, or else false; or the last.
    #[inline(never)]
    fn first(&mut self, all: &[Expr], wanted: bool) -> Result<Datum> {
        let mut last = Datum::None;
        for value in all {
            last = self.value(value)?;
            if last.is_true() == wanted {
                break;
            }
        }
        Ok(last)
    }

    #[inline(never)]
    fn steps(&mut self, mut value: Datum, steps: &[(Postfix, usize)]) -> Result<Datum> {
        for (step, line) in steps {
            self.meter.steps(1)?;
            value = self.step(&value, step).map_err(|error| error.at(*line))?;
        }
        Ok(value)
    }

    fn step(&mut self, value: &Datum, step: &Postfix) -> Result<Datum> {
        match step {
            Postfix::Attribute(name) => access::attribute(value, name),
            Postfix::Item(key) => self.item(value, key),
            Postfix::Slice(bounds) => self.slice(value, bounds),
            Postfix::Call(arguments) => self.called(value, arguments),
            Postfix::Filter(call) => self.filtered(value, call),
            Postfix::Test(call) => Ok(Datum::Bool(self.tested(value, call)?)),
            Postfix::NotTest(call) => Ok(Datum::Bool(!self.tested(value, call)?)),
        }
    }

    #[inline(never)]
    fn item(&mut self, value: &Datum, key: &Expr) -> Result<Datum> {
        let key = self.value(key)?;
        access::item(value, &key, self.meter)
    }

    #[inline(never)]
    fn slice(&mut self, value: &Datum, [start, stop, step]: &[Option<Expr>; 3]) -> Result<Datum> {
        let mut bound =
            |expr: &Option<Expr>| expr.as_ref().map(|expr| self.value(expr)).transpose();
        let bounds = [bound(start)?, bound(stop)?, bound(step)?];
        access::slice(value, bounds, self.meter)
    }

    #[inline(never)]
    fn called(&mut self, value: &Datum, arguments: &Arguments) -> Result<Datum> {
        let given = self.given(arguments)?;
        self.call(value, given)
    }

    #[inline(never)]
    fn filtered(&mut self, value: &Datum, call: &Call) -> Result<Datum> {
        let given = self.given(&call.arguments)?;
        filter(&call.name, value, given, self.meter)
    }

    #[inline(never)]
    fn tested(&mut self, value: &Datum, call: &Call) -> Result<bool> {
        let given = self.given(&call.arguments)?;
        test(&call.name, value, given, self.meter)
    }

    #[inline(never)]
    fn given(&mut self, arguments: &Arguments) -> Result<Given> {
        let mut given = Given::default();
        for value in &arguments.plain {
            given.plain.push_back(self.value(value)?);
        }
        if let Some(list) = &arguments.list {
            let list = self.value(list)?.iterate(self.meter)?;
            self.meter.steps(list.values().len() as u64)?;
            given.plain.extend(list.values().iter().cloned());
        }
        for (name, value) in &arguments.named {
            given.named.push((Rc::clone(name), self.value(value)?));
        }
        if let Some(dict) = &arguments.dict {
            let Datum::Dict(dict) = self.value(dict)? else {
                fail!("what stands behind ** is no dictionary");
            };
            for (name, value) in dict.entries() {
                self.meter.steps(1)?;
                given.named.push((str_of(name, self.meter)?, value.clone()));
            }
        }
        Ok(given)
    }

    /// Calls a value.
    fn call(&mut self, called: &Datum, given: Given) -> Result<Datum> {
        match called {
            Datum::Undefined(name) => Err(access::undefined(name)),
            Datum::Method(method) => call_method(&method.0, &method.1, given, self.meter),
            Datum::Function(name) => {
                match (*name, functions::call(name, given, self.meter, self.now)?) {
                    ("namespace", Datum::Dict(entries)) => self.namespace(&entries),
                    (_, made) => Ok(made),
                }
            }
            Datum::Macro(_) | Datum::Loop(_) => {
                self.meter.enter(CALL)?;
                let made = match called {
                    Datum::Macro(found) => self.call_macro(found, given),
                    Datum::Loop(state) => self.recurse(state, given),
                    _ => Ok(Datum::None),
                };
                self.meter.leave(CALL);
                made
            }
            other => fail!("{} cannot be called", a(other.type_name())),
        }
    }

    #[inline(never)]
    fn recurse(&mut self, state: &Loop, mut given: Given) -> Result<Datum> {
        let Some(def) = state.recursion.clone() else {
            fail!("a loop that is not recursive cannot be called");
        };
        let items = given.need("iterable")?;
        given.end()?;
        let before = self.scope;
        self.scope = state.scope.min(self.scopes.len() - 1);
        let made = self.text(|run, text| run.run_loop(&def, &items, state.depth + 1, text));
        self.scope = before;
        made
    }

    /// The arguments of a macro: those that are missing are undefined, and what it does not say it does not take.
    #[inline(never)]
    fn call_macro(&mut self, found: &Macro, mut given: Given) -> Result<Datum> {
        let def = &found.def;
        self.meter.steps(1)?;
        let outer = found.scope.min(self.scopes.len() - 1);
        let run_body = |run: &mut Self, text: &mut String| {
            for (name, default) in &def.arguments {
                let value = match (given.take(name), default) {
                    (Some(value), _) => value,
                    (None, Some(default)) => run.value(default)?,
                    (None, None) => Datum::Undefined(Rc::clone(name)),
                };
                run.set(name, value)?;
            }
            let caller = given.take_named("caller");
            if def.says.caller {
                let none = || Datum::undefined("caller");
                run.set(&"caller".into(), caller.unwrap_or_else(none))?;
            } else if caller.is_some() {
                fail!("the macro {:?} does not call its caller", def.name);
            }
            if def.says.varargs {
                let more = Datum::tuple(given.plain.drain(..).collect(), run.meter)?;
                run.set(&"varargs".into(), more)?;
            }
            if def.says.kwargs {
                let more = given
                    .named
                    .drain(..)
                    .map(|(name, value)| (Datum::Str(name), value));
                let more = Datum::Dict(Dict::new(more.collect(), run.meter)?);
                run.set(&"kwargs".into(), more)?;
            }
            given
                .end()
                .map_err(|error| JinjaError::new(format!("the macro {:?}: {error}", def.name)))?;
            run.body(&def.body, text)?;
            Ok(())
        };
        self.text(|run, text| run.scoped(outer, |run| run_body(run, text)))
    }
}
