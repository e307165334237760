//! Some MLPs of many, chosen for each token.
//!
//! ```text
//! tokens ─► router ─► k experts of each ─┐
//!    │                                   ▼
//!    └──────────────► rows, sorted by expert ─► each expert, its rows ─► sum over the k of a token
//! ```
//!
//! A pass touches the experts that its tokens go through, and no others.
//!
//! Letters: `b` batch, `t` tokens, `n = b · t`, `k` experts that a token goes through, `f` features of the model.

use burn::{
    module::Module,
    tensor::{DType, Device, Int, Tensor, TensorData, activation::sigmoid},
};

use super::{
    linear::Linear,
    mlp::Mlp,
    router::{Router, Routing},
};
use crate::collective::Together;

/// Values of rows that go through experts at once: a long prompt goes through in blocks of tokens, so that the rows of a
/// block take 128 MiB and not `k` times those of the prompt.
const VALUES_MAX: usize = 1 << 25;

/// The experts of a layer.
#[derive(Module, Debug)]
pub struct Experts {
    /// Chooses them.
    pub router: Router,
    /// All of them.
    pub experts: Vec<Mlp>,
    /// An MLP that every token goes through.
    pub shared: Option<SharedExpert>,
    /// The other ranks, where each has some of the features inside of every MLP.
    #[module(skip)]
    pub(crate) part: Option<Together>,
}

/// An MLP beside the experts that every token goes through.
#[derive(Module, Debug)]
pub struct SharedExpert {
    /// The MLP.
    pub mlp: Mlp,
    /// `[1, f]`: the output of the MLP is multiplied with the sigmoid of its product.
    pub gate: Option<Linear>,
}

impl Experts {
    /// `x` `[b, t, f]` to `[b, t, f]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.forward_routed(x.clone(), x)
    }

    /// The same, the experts chosen by `router_x` `[b, t, f]`.
    pub fn forward_routed(&self, router_x: Tensor<3>, x: Tensor<3>) -> Tensor<3> {
        let [b, t, f] = x.dims();
        let flat = |x: Tensor<3>| x.reshape([b * t, f]);
        let y = self.mixed(flat(router_x), flat(x.clone()));
        let y = y.reshape([b, t, f]);
        let y = match &self.shared {
            Some(shared) => y + shared.forward(x),
            None => y,
        };
        // Once for all experts: the sum over experts is one over ranks too.
        match &self.part {
            Some(together) => together.sum(y),
            None => y,
        }
    }

    /// Its matrices.
    pub fn linears(&self) -> Vec<&Linear> {
        let mut linears = vec![&self.router.scores];
        linears.extend(self.experts.iter().flat_map(Mlp::linears));
        if let Some(shared) = &self.shared {
            linears.extend(shared.mlp.linears());
            linears.extend(&shared.gate);
        }
        linears
    }

    /// The same, to be changed.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut linears = vec![&mut self.router.scores];
        linears.extend(self.experts.iter_mut().flat_map(Mlp::linears_mut));
        if let Some(shared) = &mut self.shared {
            linears.extend(shared.mlp.linears_mut());
            linears.extend(&mut shared.gate);
        }
        linears
    }

    /// `x` `[n, f]` through the chosen experts: `[n, f]`.
    fn mixed(&self, router_x: Tensor<2>, x: Tensor<2>) -> Tensor<2> {
        let [n, f] = x.dims();
        let block = (VALUES_MAX / (self.router.chosen * f).max(1)).clamp(1, n.max(1));
        let blocks = (0..n).step_by(block).map(|first| {
            let len = block.min(n - first);
            let of_block = |x: &Tensor<2>| x.clone().narrow(0, first, len);
            let routing = self.router.route(of_block(&router_x));
            self.mixed_block(of_block(&x), routing)
        });
        let mut blocks: Vec<Tensor<2>> = blocks.collect();
        match blocks.len() {
            1 => blocks.remove(0),
            _ => Tensor::cat(blocks, 0),
        }
    }

    fn mixed_block(&self, x: Tensor<2>, routing: Routing) -> Tensor<2> {
        let ([n, f], k) = (x.dims(), self.router.chosen);
        let (device, dtype) = (x.device(), x.dtype());
        let Routing { experts, weights } = routing;
        let weights = weights.cast(dtype);
        // Row `p` of all rows is token `p / k` on the way through its expert `experts[p]`.
        let mut order: Vec<usize> = (0..n * k).collect();
        order.sort_by_key(|row| experts[*row]);

        let rows = match n {
            1 => x.expand([k, f]),
            _ => x.select(0, ids(order.iter().map(|row| row / k), &device)),
        };
        let rows = match self.router.spec.scores_input {
            true => {
                let order = ids(order.iter().copied(), &device);
                let weights = weights.clone().reshape([n * k]).select(0, order);
                rows * weights.unsqueeze_dim(1)
            }
            false => rows,
        };
        let runs = order.chunk_by(|a, b| experts[*a] == experts[*b]);
        let mut first = 0;
        let outputs = runs.map(|run| {
            let rows = rows.clone().narrow(0, first, run.len());
            first += run.len();
            self.experts[experts[run[0]]].forward(rows)
        });
        let y = Tensor::cat(outputs.collect(), 0);
        let y = match n {
            1 => y,
            _ => {
                let mut places = vec![0; n * k];
                for (place, row) in order.iter().enumerate() {
                    places[*row] = place;
                }
                y.select(0, ids(places.into_iter(), &device))
            }
        };
        let y = y.reshape([n, k, f]);
        let y = match self.router.spec.scores_input {
            true => y,
            false => y * weights.unsqueeze_dim(2),
        };
        y.sum_dim(1).reshape([n, f])
    }
}

impl SharedExpert {
    /// `x` `[b, t, f]` to `[b, t, f]`.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let y = self.mlp.forward(x.clone());
        match &self.gate {
            Some(gate) => y * sigmoid(gate.forward(x)),
            None => y,
        }
    }
}

fn ids(places: impl Iterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let places: Vec<i32> = places.map(|place| place as i32).collect();
    let len = places.len();
    Tensor::from_data(TensorData::new(places, [len]), (device, DType::I32))
}
