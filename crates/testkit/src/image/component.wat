;; A component of WASI 0.2 in the image `wasm`: it says that it has failed.
(component
  (core module $module
    (func (export "run") (result i32)
      (i32.const 1)))
  (core instance $instance (instantiate $module))
  (func $run (result (result)) (canon lift (core func $instance "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $cli)))
