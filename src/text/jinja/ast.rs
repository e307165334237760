//! The tree of a template.
//!
//! Operators of one precedence in a row, filters in a row and branches in a row lie in lists, so that only brackets and
//! blocks make the tree deep; the parser bounds those.

use std::rc::Rc;

/// A name.
pub(super) type Name = Rc<str>;

/// Statements and their lines.
pub(super) type Body = Rc<[(Statement, usize)]>;

/// A statement.
#[derive(Debug)]
pub(super) enum Statement {
    Text(Rc<str>),
    Print(Expr),
    /// Conditions with their bodies, then `else`.
    If(Vec<(Expr, Body)>, Body),
    For(Rc<For>),
    Set(Assigned, Expr),
    SetBlock(Assigned, Vec<Call>, Body),
    With(Vec<(Assigned, Expr)>, Body),
    Macro(Rc<MacroDef>),
    /// `{% call(…) expr %}`.
    CallBlock(Expr, Rc<MacroDef>),
    Filter(Vec<Call>, Body),
    /// A block that has a scope and no other effect.
    Scope(Body),
    /// An answer: a block that has a scope, and whose place in the text is noted.
    Generation(Body),
    Break,
    Continue,
    /// A statement that needs files, and there are none.
    Files(Name),
}

/// A loop.
#[derive(Debug)]
pub(super) struct For {
    pub(super) target: Assigned,
    pub(super) items: Expr,
    pub(super) condition: Option<Expr>,
    pub(super) is_recursive: bool,
    pub(super) body: Body,
    pub(super) otherwise: Body,
}

/// What is assigned to.
#[derive(Debug)]
pub(super) enum Assigned {
    Name(Name),
    Tuple(Vec<Assigned>),
    /// An attribute of a namespace.
    Attribute(Name, Name),
}

/// A macro, or the body of a `call` block.
#[derive(Debug)]
pub(super) struct MacroDef {
    pub(super) name: Name,
    /// With the defaults of the last ones.
    pub(super) arguments: Vec<(Name, Option<Expr>)>,
    pub(super) body: Body,
    /// Whether the body says `varargs`, `kwargs` or `caller`; a macro takes no more than it says.
    pub(super) says: Says,
}

/// The names of a macro's body that let it take more.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Says {
    pub(super) varargs: bool,
    pub(super) kwargs: bool,
    pub(super) caller: bool,
}

/// An expression.
#[derive(Debug)]
pub(super) enum Expr {
    Const(Literal),
    Name(Name),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Compare(Box<Expr>, Vec<(Relation, Expr)>),
    /// From left to right.
    Arithmetic(Box<Expr>, Vec<(Arithmetic, Expr)>),
    Concat(Vec<Expr>),
    /// What follows a value: attributes, subscripts, calls, filters and tests.
    Steps(Box<Expr>, Vec<(Postfix, usize)>),
    /// Datum, condition, otherwise.
    Choice(Box<(Expr, Expr, Option<Expr>)>),
}

/// A value that the template writes.
#[derive(Debug, Clone)]
pub(super) enum Literal {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Rc<str>),
}

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Equal,
    Unequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
}

/// An operator between two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
}

/// What follows a value.
#[derive(Debug)]
pub(super) enum Postfix {
    Attribute(Name),
    Item(Expr),
    Slice([Option<Expr>; 3]),
    Call(Arguments),
    Filter(Call),
    Test(Call),
    NotTest(Call),
}

/// A filter or test by name.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) name: Name,
    pub(super) arguments: Arguments,
}

/// Arguments of a call.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) plain: Vec<Expr>,
    pub(super) named: Vec<(Name, Expr)>,
    /// `*list`.
    pub(super) list: Option<Box<Expr>>,
    /// `**dict`.
    pub(super) dict: Option<Box<Expr>>,
}
