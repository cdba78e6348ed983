;; The program of the image `wasm`: WASI preview 1 in the place of a shell. Its first argument is what to do, known by
;; its first letter:
;;
;;   exit N         ends with that code
;;   say            a line on each output, and one without an end
;;   long           a line of 40000 bytes, and a short one
;;   count N [VERB] the numbers from 1 to N, a line each; then VERB
;;   idle           nothing, for ever
;;   grow           takes memory, for ever
;;   busy           takes 8 MiB, then time, for ever
;;   file PATH [VERB] prints a file; then VERB
;;   vars           prints its environment
;;   args           prints its arguments
;;   wait PATH VERB waits until the file is there, then does VERB
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))

  ;; 0 an iovec, 8 what was written or read, 16 a count, 20 a size; 512 a subscription, 576 its event, 640 a descriptor;
  ;; 1024 pointers, 2048 the text they point to; 8192 a number's digits; 65536 a page of anything.
  (memory (export "memory") 2)
  (data (i32.const 4096) "out\n")
  (data (i32.const 4104) "err\n")
  (data (i32.const 4112) "end")
  (data (i32.const 4120) "short\n")
  (data (i32.const 4128) "\n")

  (func $write (param $fd i32) (param $at i32) (param $length i32)
    (block $done
      (loop $more
        (br_if $done (i32.eqz (local.get $length)))
        (i32.store (i32.const 0) (local.get $at))
        (i32.store (i32.const 4) (local.get $length))
        (br_if $done (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8)))
        (local.set $at (i32.add (local.get $at) (i32.load (i32.const 8))))
        (local.set $length (i32.sub (local.get $length) (i32.load (i32.const 8))))
        (br $more))))

  (func $length (param $at i32) (result i32)
    (local $end i32)
    (local.set $end (local.get $at))
    (block $done
      (loop $more
        (br_if $done (i32.eqz (i32.load8_u (local.get $end))))
        (local.set $end (i32.add (local.get $end) (i32.const 1)))
        (br $more)))
    (i32.sub (local.get $end) (local.get $at)))

  (func $line (param $at i32)
    (call $write (i32.const 1) (local.get $at) (call $length (local.get $at)))
    (call $write (i32.const 1) (i32.const 4128) (i32.const 1)))

  ;; The lines that the pointers at 1024 lead to.
  (func $lines (param $count i32)
    (local $at i32)
    (block $done
      (loop $more
        (br_if $done (i32.ge_u (local.get $at) (local.get $count)))
        (call $line (i32.load (i32.add (i32.const 1024) (i32.shl (local.get $at) (i32.const 2)))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $more))))

  (func $number (param $at i32) (result i32)
    (local $value i32)
    (block $done
      (loop $more
        (br_if $done (i32.eqz (i32.load8_u (local.get $at))))
        (local.set $value
          (i32.add
            (i32.mul (local.get $value) (i32.const 10))
            (i32.sub (i32.load8_u (local.get $at)) (i32.const 48))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $more)))
    (local.get $value))

  (func $print (param $number i32)
    (local $at i32)
    (local.set $at (i32.const 8223))
    (i32.store8 (local.get $at) (i32.const 10))
    (loop $more
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $number) (i32.const 10))))
      (local.set $number (i32.div_u (local.get $number) (i32.const 10)))
      (br_if $more (local.get $number)))
    (call $write (i32.const 1) (local.get $at) (i32.sub (i32.const 8224) (local.get $at))))

  (func $sleep (param $nanoseconds i64)
    (i64.store (i32.const 512) (i64.const 0))
    (i64.store (i32.const 520) (i64.const 0))
    (i32.store (i32.const 528) (i32.const 1))
    (i64.store (i32.const 536) (local.get $nanoseconds))
    (i64.store (i32.const 544) (i64.const 0))
    (i32.store (i32.const 552) (i32.const 0))
    (drop (call $poll_oneoff (i32.const 512) (i32.const 576) (i32.const 1) (i32.const 8))))

  ;; Opens a path to be read, below the first directory that was given; its descriptor is at 640.
  (func $open (param $path i32) (result i32)
    (local.set $path (i32.add (local.get $path) (i32.const 1)))
    (call $path_open
      (i32.const 3) (i32.const 1) (local.get $path) (call $length (local.get $path))
      (i32.const 0) (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 640)))

  (func $file (param $path i32)
    (if (call $open (local.get $path)) (then (call $proc_exit (i32.const 66))))
    (block $done
      (loop $more
        (i32.store (i32.const 0) (i32.const 65536))
        (i32.store (i32.const 4) (i32.const 65536))
        (br_if $done (call $fd_read (i32.load (i32.const 640)) (i32.const 0) (i32.const 1) (i32.const 8)))
        (br_if $done (i32.eqz (i32.load (i32.const 8))))
        (call $write (i32.const 1) (i32.const 65536) (i32.load (i32.const 8)))
        (br $more))))

  (func $long
    (memory.fill (i32.const 65536) (i32.const 120) (i32.const 40000))
    (call $write (i32.const 1) (i32.const 65536) (i32.const 40000))
    (call $write (i32.const 1) (i32.const 4128) (i32.const 1))
    (call $write (i32.const 1) (i32.const 4120) (i32.const 6)))

  (func $idle
    (loop $more
      (call $sleep (i64.const 1000000000000))
      (br $more)))

  ;; Takes so many pages and writes to each.
  (func $take (param $pages i32)
    (local $at i32)
    (local.set $at (i32.shl (memory.grow (local.get $pages)) (i32.const 16)))
    (memory.fill (local.get $at) (i32.const 1) (i32.shl (local.get $pages) (i32.const 16))))

  (func $say
    (call $write (i32.const 1) (i32.const 4096) (i32.const 4))
    (call $write (i32.const 2) (i32.const 4104) (i32.const 4))
    (call $write (i32.const 1) (i32.const 4112) (i32.const 3)))

  (func $count (param $last i32)
    (local $number i32)
    (loop $more
      (local.set $number (i32.add (local.get $number) (i32.const 1)))
      (call $print (local.get $number))
      (br_if $more (i32.lt_u (local.get $number) (local.get $last)))))

  (func $argument (param $at i32) (result i32)
    (i32.load (i32.add (i32.const 1024) (i32.shl (local.get $at) (i32.const 2)))))

  (func $is (param $at i32) (param $letter i32) (result i32)
    (i32.eq (i32.load8_u (call $argument (local.get $at))) (local.get $letter)))

  ;; Does what the argument of this number says.
  (func $do (param $at i32)
    (local $next i32)
    (if (i32.ge_u (local.get $at) (i32.load (i32.const 16))) (then (return)))
    (local.set $next (i32.add (local.get $at) (i32.const 1)))
    (if (call $is (local.get $at) (i32.const 101)) ;; exit
      (then (call $proc_exit (call $number (call $argument (local.get $next))))))
    (if (call $is (local.get $at) (i32.const 115)) (then (call $say))) ;; say
    (if (call $is (local.get $at) (i32.const 108)) (then (call $long))) ;; long
    (if (call $is (local.get $at) (i32.const 105)) (then (call $idle))) ;; idle
    (if (call $is (local.get $at) (i32.const 97)) (then (call $lines (i32.load (i32.const 16))))) ;; args
    (if (call $is (local.get $at) (i32.const 102)) ;; file
      (then
        (call $file (call $argument (local.get $next)))
        (call $do (i32.add (local.get $at) (i32.const 2)))))
    (if (call $is (local.get $at) (i32.const 103)) ;; grow
      (then (loop $more (call $take (i32.const 16)) (br $more))))
    (if (call $is (local.get $at) (i32.const 98)) ;; busy
      (then (call $take (i32.const 128)) (loop $more (br $more))))
    (if (call $is (local.get $at) (i32.const 118)) ;; vars
      (then
        (drop (call $environ_sizes_get (i32.const 16) (i32.const 20)))
        (drop (call $environ_get (i32.const 1024) (i32.const 2048)))
        (call $lines (i32.load (i32.const 16)))
        (return)))
    (if (call $is (local.get $at) (i32.const 99)) ;; count
      (then
        (call $count (call $number (call $argument (local.get $next))))
        (call $do (i32.add (local.get $at) (i32.const 2)))))
    (if (call $is (local.get $at) (i32.const 119)) ;; wait
      (then
        (block $there
          (loop $more
            (br_if $there (i32.eqz (call $open (call $argument (local.get $next)))))
            (call $sleep (i64.const 10000000))
            (br $more)))
        (call $do (i32.add (local.get $at) (i32.const 2))))))

  (func (export "_start")
    (drop (call $args_sizes_get (i32.const 16) (i32.const 20)))
    (drop (call $args_get (i32.const 1024) (i32.const 2048)))
    (call $do (i32.const 1))))
