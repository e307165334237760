//! Tokens to a tree, by the grammar of `jinja2/parser.py`.

use std::rc::Rc;

use super::{
    ast::{
        Arguments, Arithmetic, Assigned, Body, Call, Expr, For, Literal, MacroDef, Name, Postfix,
        Relation, Says, Statement,
    },
    error::{JinjaError, Result, fail},
    lexer::{Token, tokens},
    meter::{BRACKETS_MAX, SOURCE_BYTES_MAX},
};

/// Names that a macro's body may say, to take more than its arguments.
const TAKEN: [&str; 3] = ["varargs", "kwargs", "caller"];

/// Reads a template, and says whether it has `generation` blocks.
pub(super) fn parse(source: &str) -> Result<(Body, bool)> {
    if source.len() > SOURCE_BYTES_MAX {
        fail!(
            "the template has {} bytes, and at most {SOURCE_BYTES_MAX} are read",
            source.len()
        );
    }
    let mut parser = Parser {
        tokens: tokens(source)?,
        at: 0,
        depth: 0,
        loops: 0,
        says: Says::default(),
        marks: false,
    };
    let body = parser.body(&[]).map_err(|error| error.at(parser.line()))?;
    match parser.peek() {
        None => Ok((body, parser.marks)),
        Some(_) => Err(JinjaError::new("a block ends that did not begin").at(parser.line())),
    }
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    /// Brackets and blocks around this place.
    depth: usize,
    /// Loops around this place, in this macro.
    loops: usize,
    /// Names that the macro around this place says.
    says: Says,
    /// Whether a `generation` block was read.
    marks: bool,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    fn line(&self) -> usize {
        let token = self.tokens.get(self.at).or_else(|| self.tokens.last());
        token.map_or(1, |(_, line)| *line)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.peek().cloned();
        self.at += 1;
        token
    }

    fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Some(Token::Op(found)) if *found == op)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(found)) if **found == *name)
    }

    /// Takes an operator where it is the next token.
    fn op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    fn expect_op(&mut self, op: &str) -> Result<()> {
        if self.op(op) {
            return Ok(());
        }
        fail!("{op:?} is missing before {}", self.found())
    }

    fn found(&self) -> String {
        match self.peek() {
            None => "the end".to_owned(),
            Some(Token::Name(name)) => format!("{name:?}"),
            Some(Token::Op(op)) => format!("{op:?}"),
            Some(Token::BlockEnd) => "the end of the block".to_owned(),
            Some(Token::PrintEnd) => "the end of the print".to_owned(),
            Some(Token::Data(_) | Token::Print | Token::Block) => "text".to_owned(),
            Some(Token::Str(_) | Token::Int(_) | Token::Float(_)) => "a value".to_owned(),
        }
    }

    fn name(&mut self) -> Result<Name> {
        match self.peek().cloned() {
            Some(Token::Name(name)) => {
                self.at += 1;
                Ok(name)
            }
            _ => fail!("a name is missing before {}", self.found()),
        }
    }

    fn block_end(&mut self) -> Result<()> {
        match self.peek() {
            Some(Token::BlockEnd) => {
                self.at += 1;
                Ok(())
            }
            _ => fail!("a block should end before {}", self.found()),
        }
    }

    /// One level deeper.
    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= BRACKETS_MAX {
            fail!("brackets and blocks lie deeper in each other than {BRACKETS_MAX}");
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// Statements up to a block that begins with one of some words, which stays; without words, up to the end.
    fn body(&mut self, ends: &[&str]) -> Result<Body> {
        let mut statements = Vec::new();
        loop {
            let line = self.line();
            match self.next() {
                None if ends.is_empty() => return Ok(statements.into()),
                None => fail!("the template ends, and {} is missing", ends.join(" or ")),
                Some(Token::Data(text)) => statements.push((Statement::Text(text), line)),
                Some(Token::Print) => {
                    let value = self.tuple()?;
                    if self.next() != Some(Token::PrintEnd) {
                        self.at -= 1;
                        fail!("a print should end before {}", self.found());
                    }
                    statements.push((Statement::Print(value), line));
                }
                Some(Token::Block) => {
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(statements.into());
                    }
                    let name = self.name()?;
                    let statement = self.nested(|parser| parser.statement(&name))?;
                    statements.push((statement, line));
                }
                Some(_) => fail!("text is missing"),
            }
        }
    }

    /// A body, and the block that ends it.
    fn body_to(&mut self, end: &str) -> Result<Body> {
        self.block_end()?;
        let body = self.body(&[end])?;
        self.at += 1;
        self.block_end()?;
        Ok(body)
    }

    /// A statement behind its name, with its end.
    fn statement(&mut self, name: &Name) -> Result<Statement> {
        Ok(match &**name {
            "if" => self.if_()?,
            "for" => self.for_()?,
            "set" => self.set()?,
            "with" => self.with()?,
            "macro" => {
                let name = self.name()?;
                let arguments = self.declared()?;
                Statement::Macro(self.macro_(name, arguments, "endmacro")?)
            }
            "call" => self.call_block()?,
            "filter" => {
                let filters = self.filters()?;
                Statement::Filter(filters, self.body_to("endfilter")?)
            }
            "generation" => {
                self.marks = true;
                Statement::Generation(self.body_to("endgeneration")?)
            }
            "autoescape" => {
                self.expression()?;
                Statement::Scope(self.body_to("endautoescape")?)
            }
            "block" => {
                let name = self.name()?;
                self.word("scoped");
                self.block_end()?;
                let body = self.body(&["endblock"])?;
                self.at += 1;
                self.word(&name);
                self.block_end()?;
                Statement::Scope(body)
            }
            "print" => {
                let value = self.tuple()?;
                self.block_end()?;
                Statement::Print(value)
            }
            "break" | "continue" => {
                if self.loops == 0 {
                    fail!("{name:?} stands outside of a loop");
                }
                self.block_end()?;
                match &**name {
                    "break" => Statement::Break,
                    _ => Statement::Continue,
                }
            }
            "include" | "import" | "from" | "extends" => {
                while !matches!(self.peek(), None | Some(Token::BlockEnd)) {
                    self.at += 1;
                }
                self.block_end()?;
                Statement::Files(Rc::clone(name))
            }
            _ => fail!("{name:?} is no block that is known"),
        })
    }

    fn if_(&mut self) -> Result<Statement> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple_of(Self::or)?;
            self.block_end()?;
            branches.push((condition, self.body(&["elif", "else", "endif"])?));
            if self.word("elif") {
                continue;
            }
            let otherwise = self.otherwise("endif")?;
            return Ok(Statement::If(branches, otherwise));
        }
    }

    /// The body behind `else`, where there is one, and the end.
    fn otherwise(&mut self, end: &str) -> Result<Body> {
        let mut body = Body::from([]);
        if self.word("else") {
            self.block_end()?;
            body = self.body(&[end])?;
        }
        self.at += 1;
        self.block_end()?;
        Ok(body)
    }

    fn for_(&mut self) -> Result<Statement> {
        let target = self.targets()?;
        if !self.word("in") {
            fail!("\"in\" is missing before {}", self.found());
        }
        let items = self.tuple_of(Self::or)?;
        let condition = if self.word("if") {
            Some(self.expression()?)
        } else {
            None
        };
        let is_recursive = self.word("recursive");
        self.block_end()?;
        self.loops += 1;
        let body = self.body(&["else", "endfor"])?;
        self.loops -= 1;
        let otherwise = self.otherwise("endfor")?;
        Ok(Statement::For(Rc::new(For {
            target,
            items,
            condition,
            is_recursive,
            body,
            otherwise,
        })))
    }

    fn set(&mut self) -> Result<Statement> {
        let target = self.targets()?;
        if self.op("=") {
            let value = self.tuple()?;
            self.block_end()?;
            return Ok(Statement::Set(target, value));
        }
        let filters = if self.op("|") {
            self.filters()?
        } else {
            Vec::new()
        };
        Ok(Statement::SetBlock(
            target,
            filters,
            self.body_to("endset")?,
        ))
    }

    fn with(&mut self) -> Result<Statement> {
        let mut values = Vec::new();
        while !matches!(self.peek(), Some(Token::BlockEnd) | None) {
            if !values.is_empty() {
                self.expect_op(",")?;
            }
            let target = self.target()?;
            self.expect_op("=")?;
            values.push((target, self.expression()?));
        }
        Ok(Statement::With(values, self.body_to("endwith")?))
    }

    /// `(a, b=1)`: what a macro takes.
    fn declared(&mut self) -> Result<Vec<(Name, Option<Expr>)>> {
        let mut arguments: Vec<(Name, Option<Expr>)> = Vec::new();
        self.expect_op("(")?;
        while !self.op(")") {
            if !arguments.is_empty() {
                self.expect_op(",")?;
            }
            let name = self.name()?;
            let default = if self.op("=") {
                Some(self.expression()?)
            } else {
                None
            };
            if default.is_none()
                && arguments
                    .last()
                    .is_some_and(|(_, default)| default.is_some())
            {
                fail!("an argument without a default follows one with a default");
            }
            arguments.push((name, default));
        }
        Ok(arguments)
    }

    /// The body of a macro. Names of `TAKEN` that the body says are its own.
    fn macro_(
        &mut self,
        name: Name,
        arguments: Vec<(Name, Option<Expr>)>,
        end: &str,
    ) -> Result<Rc<MacroDef>> {
        let (says, loops) = (
            std::mem::take(&mut self.says),
            std::mem::take(&mut self.loops),
        );
        let body = self.body_to(end)?;
        let says = std::mem::replace(&mut self.says, says);
        self.loops = loops;
        Ok(Rc::new(MacroDef {
            name,
            arguments,
            body,
            says,
        }))
    }

    fn call_block(&mut self) -> Result<Statement> {
        let arguments = if self.is_op("(") {
            self.declared()?
        } else {
            Vec::new()
        };
        let call = self.expression()?;
        if !matches!(&call, Expr::Steps(_, steps) if matches!(steps.last(), Some((Postfix::Call(_), _))))
        {
            fail!("a call block calls nothing");
        }
        let def = self.macro_("caller".into(), arguments, "endcall")?;
        Ok(Statement::CallBlock(call, def))
    }

    /// `upper | trim`: filters in a row.
    fn filters(&mut self) -> Result<Vec<Call>> {
        let mut filters = vec![self.named_call()?];
        while self.op("|") {
            filters.push(self.named_call()?);
        }
        Ok(filters)
    }

    /// A filter's name, with dots, and its arguments.
    fn named_call(&mut self) -> Result<Call> {
        let mut name = self.name()?;
        while self.op(".") {
            name = format!("{name}.{}", self.name()?).into();
        }
        let arguments = if self.op("(") {
            self.arguments()?
        } else {
            Arguments::default()
        };
        Ok(Call { name, arguments })
    }

    /// Names to assign to, with commas between.
    fn targets(&mut self) -> Result<Assigned> {
        let first = self.target()?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut targets = vec![first];
        while self.op(",") {
            if self.is_name("in") || self.is_op("=") || self.is_op(")") {
                break;
            }
            targets.push(self.target()?);
        }
        Ok(Assigned::Tuple(targets))
    }

    fn target(&mut self) -> Result<Assigned> {
        if self.op("(") {
            let targets = self.nested(Self::targets)?;
            self.expect_op(")")?;
            return Ok(targets);
        }
        let name = self.name()?;
        if self.op(".") {
            return Ok(Assigned::Attribute(name, self.name()?));
        }
        if matches!(
            &*name,
            "true" | "false" | "none" | "True" | "False" | "None"
        ) {
            fail!("nothing can be assigned to {name:?}");
        }
        Ok(Assigned::Name(name))
    }

    fn tuple(&mut self) -> Result<Expr> {
        self.tuple_of(Self::expression)
    }

    /// One expression, or several with commas between, without brackets.
    fn tuple_of(&mut self, part: impl Fn(&mut Self) -> Result<Expr>) -> Result<Expr> {
        let first = part(self)?;
        if !self.is_op(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.op(",") {
            let ends = matches!(self.peek(), None | Some(Token::PrintEnd | Token::BlockEnd));
            if ends || self.is_op(")") || self.is_name("recursive") || self.is_name("if") {
                break;
            }
            items.push(part(self)?);
        }
        Ok(Expr::Tuple(items))
    }

    /// `a if b else c`.
    fn expression(&mut self) -> Result<Expr> {
        self.nested(|parser| {
            let mut value = parser.or()?;
            while parser.word("if") {
                let condition = parser.or()?;
                let otherwise = if parser.word("else") {
                    Some(parser.expression()?)
                } else {
                    None
                };
                value = Expr::Choice(Box::new((value, condition, otherwise)));
                if parser.is_name("if") {
                    fail!("a second \"if\" follows a choice: brackets are needed");
                }
            }
            Ok(value)
        })
    }

    /// An expression without a choice.
    fn or(&mut self) -> Result<Expr> {
        self.operators(OR)
    }

    /// Operators from a level on, by climbing: brackets alone make the stack deeper.
    fn operators(&mut self, lowest: u8) -> Result<Expr> {
        let mut left = if lowest <= NOT && self.word("not") {
            Expr::Not(Box::new(self.nested(|parser| parser.operators(NOT))?))
        } else {
            self.unary(true)?
        };
        // Whether `left` is a comparison that was read here: `(a < b) < c` is no chain.
        let mut is_chain = false;
        while let Some((level, operator, words)) =
            self.operator().filter(|(level, ..)| *level >= lowest)
        {
            self.at += words;
            let right = self.operators(level + 1)?;
            left = joined(left, operator, right, is_chain);
            is_chain = level == COMPARE;
        }
        Ok(left)
    }

    /// The operator at this place, its level, and how many tokens it takes.
    fn operator(&self) -> Option<(u8, Operator, usize)> {
        let arithmetic = |level, operator| Some((level, Operator::Arithmetic(operator), 1));
        let compare = |operator| Some((COMPARE, Operator::Compare(operator), 1));
        match self.peek()? {
            Token::Op("+") => arithmetic(SUM, Arithmetic::Add),
            Token::Op("-") => arithmetic(SUM, Arithmetic::Subtract),
            Token::Op("*") => arithmetic(PRODUCT, Arithmetic::Multiply),
            Token::Op("/") => arithmetic(PRODUCT, Arithmetic::Divide),
            Token::Op("//") => arithmetic(PRODUCT, Arithmetic::FloorDivide),
            Token::Op("%") => arithmetic(PRODUCT, Arithmetic::Remainder),
            Token::Op("**") => arithmetic(POWER, Arithmetic::Power),
            Token::Op("~") => Some((CONCAT, Operator::Concat, 1)),
            Token::Op("==") => compare(Relation::Equal),
            Token::Op("!=") => compare(Relation::Unequal),
            Token::Op("<") => compare(Relation::Less),
            Token::Op("<=") => compare(Relation::LessEqual),
            Token::Op(">") => compare(Relation::Greater),
            Token::Op(">=") => compare(Relation::GreaterEqual),
            Token::Name(name) => match &**name {
                "or" => Some((OR, Operator::Or, 1)),
                "and" => Some((AND, Operator::And, 1)),
                "in" => compare(Relation::In),
                "not" => match self.tokens.get(self.at + 1) {
                    Some((Token::Name(name), _)) if &**name == "in" => {
                        Some((COMPARE, Operator::Compare(Relation::NotIn), 2))
                    }
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        }
    }

    fn unary(&mut self, with_filters: bool) -> Result<Expr> {
        let value = if self.op("-") {
            Expr::Negative(Box::new(self.nested(|parser| parser.unary(false))?))
        } else if self.op("+") {
            Expr::Positive(Box::new(self.nested(|parser| parser.unary(false))?))
        } else {
            self.primary()?
        };
        let mut steps = Vec::new();
        self.postfix(&mut steps)?;
        if with_filters {
            self.filters_and_tests(&mut steps)?;
        }
        if steps.is_empty() {
            return Ok(value);
        }
        Ok(Expr::Steps(Box::new(value), steps))
    }

    fn filters_and_tests(&mut self, steps: &mut Vec<(Postfix, usize)>) -> Result<()> {
        loop {
            let line = self.line();
            if self.op("|") {
                steps.push((Postfix::Filter(self.named_call()?), line));
            } else if self.word("is") {
                let step = self.test()?;
                steps.push((step, line));
            } else if self.op("(") {
                steps.push((Postfix::Call(self.arguments()?), line));
            } else {
                return Ok(());
            }
        }
    }

    /// `is [not] name argument`. The argument needs no brackets.
    fn test(&mut self) -> Result<Postfix> {
        let is_not = self.word("not");
        let mut name = self.name()?;
        while self.op(".") {
            name = format!("{name}.{}", self.name()?).into();
        }
        let mut arguments = Arguments::default();
        if self.op("(") {
            arguments = self.arguments()?;
        } else {
            let begins_value = match self.peek() {
                Some(Token::Name(name)) => !matches!(&**name, "else" | "or" | "and"),
                Some(Token::Str(_) | Token::Int(_) | Token::Float(_) | Token::Op("[" | "{")) => {
                    true
                }
                _ => false,
            };
            if begins_value {
                if self.is_name("is") {
                    fail!("a test follows a test: brackets are needed");
                }
                let value = self.primary()?;
                let mut steps = Vec::new();
                self.postfix(&mut steps)?;
                let value = if steps.is_empty() {
                    value
                } else {
                    Expr::Steps(Box::new(value), steps)
                };
                arguments.plain.push(value);
            }
        }
        let call = Call { name, arguments };
        Ok(if is_not {
            Postfix::NotTest(call)
        } else {
            Postfix::Test(call)
        })
    }

    /// Attributes, subscripts and calls.
    fn postfix(&mut self, steps: &mut Vec<(Postfix, usize)>) -> Result<()> {
        loop {
            let line = self.line();
            let step = if self.op(".") {
                match self.next() {
                    Some(Token::Name(name)) => Postfix::Attribute(name),
                    Some(Token::Int(index)) => Postfix::Item(Expr::Const(Literal::Int(index))),
                    _ => fail!("a name or a number is missing behind a dot"),
                }
            } else if self.op("[") {
                self.nested(Self::subscript)?
            } else if self.op("(") {
                Postfix::Call(self.arguments()?)
            } else {
                return Ok(());
            };
            steps.push((step, line));
        }
    }

    fn subscript(&mut self) -> Result<Postfix> {
        let mut bounds: [Option<Expr>; 3] = [None, None, None];
        let mut colons = 0;
        while !self.op("]") {
            if self.op(":") {
                colons += 1;
                if colons > 2 {
                    fail!("a slice has more than two colons");
                }
                continue;
            }
            if bounds[colons].is_some() {
                fail!("\"]\" is missing before {}", self.found());
            }
            let value = self.expression()?;
            bounds[colons] = Some(value);
            if colons == 0 && self.is_op(",") {
                fail!("a subscript of several values is not known here");
            }
        }
        match (colons, bounds) {
            (0, [Some(index), _, _]) => Ok(Postfix::Item(index)),
            (0, _) => fail!("a subscript is empty"),
            (_, bounds) => Ok(Postfix::Slice(bounds)),
        }
    }

    /// Arguments behind an open bracket, and the bracket that closes.
    fn arguments(&mut self) -> Result<Arguments> {
        self.nested(|parser| {
            let mut arguments = Arguments::default();
            let mut is_first = true;
            while !parser.op(")") {
                if !is_first {
                    parser.expect_op(",")?;
                    if parser.op(")") {
                        break;
                    }
                }
                is_first = false;
                if parser.op("*") {
                    arguments.list = Some(Box::new(parser.expression()?));
                } else if parser.op("**") {
                    arguments.dict = Some(Box::new(parser.expression()?));
                } else if let Some(Token::Name(name)) = parser.peek().cloned()
                    && matches!(parser.tokens.get(parser.at + 1), Some((Token::Op("="), _)))
                {
                    parser.at += 2;
                    let value = parser.expression()?;
                    arguments.named.push((name, value));
                } else if arguments.named.is_empty() && arguments.dict.is_none() {
                    arguments.plain.push(parser.expression()?);
                } else {
                    fail!("an argument without a name follows one with a name");
                }
            }
            Ok(arguments)
        })
    }

    fn primary(&mut self) -> Result<Expr> {
        Ok(match self.next() {
            Some(Token::Name(name)) => match &*name {
                "true" | "True" => Expr::Const(Literal::Bool(true)),
                "false" | "False" => Expr::Const(Literal::Bool(false)),
                "none" | "None" => Expr::Const(Literal::None),
                _ => {
                    for (index, taken) in TAKEN.iter().enumerate() {
                        if *name == **taken {
                            *[
                                &mut self.says.varargs,
                                &mut self.says.kwargs,
                                &mut self.says.caller,
                            ][index] = true;
                        }
                    }
                    Expr::Name(name)
                }
            },
            Some(Token::Str(text)) => {
                if !matches!(self.peek(), Some(Token::Str(_))) {
                    return Ok(Expr::Const(Literal::Str(text)));
                }
                let mut text = text.to_string();
                while let Some(Token::Str(more)) = self.peek() {
                    text += more;
                    self.at += 1;
                }
                Expr::Const(Literal::Str(text.into()))
            }
            Some(Token::Int(value)) => Expr::Const(Literal::Int(value)),
            Some(Token::Float(value)) => Expr::Const(Literal::Float(value)),
            Some(Token::Op("(")) => {
                if self.op(")") {
                    return Ok(Expr::Tuple(Vec::new()));
                }
                let value = self.nested(Self::tuple)?;
                self.expect_op(")")?;
                value
            }
            Some(Token::Op("[")) => {
                let mut items = Vec::new();
                while !self.op("]") {
                    if !items.is_empty() {
                        self.expect_op(",")?;
                        if self.op("]") {
                            break;
                        }
                    }
                    items.push(self.expression()?);
                }
                Expr::List(items)
            }
            Some(Token::Op("{")) => {
                let mut entries = Vec::new();
                while !self.op("}") {
                    if !entries.is_empty() {
                        self.expect_op(",")?;
                        if self.op("}") {
                            break;
                        }
                    }
                    let key = self.expression()?;
                    self.expect_op(":")?;
                    entries.push((key, self.expression()?));
                }
                Expr::Dict(entries)
            }
            _ => {
                self.at -= 1;
                fail!("a value is missing before {}", self.found())
            }
        })
    }
}

/// An operator between two values.
#[derive(Clone, Copy)]
enum Operator {
    Or,
    And,
    Concat,
    Compare(Relation),
    Arithmetic(Arithmetic),
}

/// Levels of operators, from those that bind least.
const OR: u8 = 1;
const AND: u8 = 2;
const NOT: u8 = 3;
const COMPARE: u8 = 4;
const SUM: u8 = 5;
const CONCAT: u8 = 6;
const PRODUCT: u8 = 7;
const POWER: u8 = 8;

/// Two values with an operator between; a row of one level stays one list.
fn joined(left: Expr, operator: Operator, right: Expr, is_chain: bool) -> Expr {
    let list = |left, right| vec![left, right];
    match (operator, left) {
        (Operator::Or, Expr::Or(mut all)) => {
            all.push(right);
            Expr::Or(all)
        }
        (Operator::Or, left) => Expr::Or(list(left, right)),
        (Operator::And, Expr::And(mut all)) => {
            all.push(right);
            Expr::And(all)
        }
        (Operator::And, left) => Expr::And(list(left, right)),
        (Operator::Concat, Expr::Concat(mut all)) => {
            all.push(right);
            Expr::Concat(all)
        }
        (Operator::Concat, left) => Expr::Concat(list(left, right)),
        (Operator::Compare(operator), Expr::Compare(first, mut rest)) if is_chain => {
            rest.push((operator, right));
            Expr::Compare(first, rest)
        }
        (Operator::Compare(operator), left) => {
            Expr::Compare(Box::new(left), vec![(operator, right)])
        }
        // From left to right, so that brackets around the left part change nothing.
        (Operator::Arithmetic(operator), Expr::Arithmetic(first, mut rest)) => {
            rest.push((operator, right));
            Expr::Arithmetic(first, rest)
        }
        (Operator::Arithmetic(operator), left) => {
            Expr::Arithmetic(Box::new(left), vec![(operator, right)])
        }
    }
}
