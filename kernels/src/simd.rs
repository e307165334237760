//! Loops compiled once for each kind of processor: pulp asks which one this is, and the compiler makes vector code of
//! loops over arrays of lanes. All kinds give the same bits, since no step is fused or reordered.

/// Declares a function whose body is compiled for AVX-512, for AVX2 with fused products, and for any other x86-64; for
/// NEON; and for what has none of that.
///
/// Only what is inlined into the body is compiled with it: what it calls has to be `#[inline(always)]`. Asking for the
/// kind takes some ten nanoseconds, so a call should be worth a thousand weights.
macro_rules! for_processors {
    (
        $(#[$doc:meta])*
        $visibility:vis fn $name:ident $(<$levels:ident: $bound:ident>)? (
            $($arg:ident: $type:ty),* $(,)?
        ) -> $result:ty $body:block
    ) => {
        $(#[$doc])*
        $visibility fn $name $(<$levels: $bound>)? ($($arg: $type),*) -> $result {
            struct Call<A $(, $levels)?>(A $(, core::marker::PhantomData<$levels>)?);

            impl $(<$levels: $bound>)? pulp::WithSimd for Call<($($type,)*) $(, $levels)?> {
                type Output = $result;

                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) -> $result {
                    let ($($arg,)*) = self.0;
                    $body
                }
            }

            pulp::Arch::new().dispatch(Call(
                ($($arg,)*)
                $(, core::marker::PhantomData::<$levels>)?
            ))
        }
    };
}

pub(crate) use for_processors;
