module upstream-forwarder

go 1.21
