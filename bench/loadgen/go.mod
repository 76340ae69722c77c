module posthouse/bench/loadgen

go 1.24
