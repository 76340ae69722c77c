package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// What /proc says of the server: the whole tree of processes under one pid.

// clockTicks is USER_HZ, the unit of /proc/PID/stat: 100 on every Linux that
// Go runs on.
const clockTicks = 100

// processTree returns pid and all its descendants that live now.
func processTree(pid int) []int {
	tree := []int{pid}
	for i := 0; i < len(tree); i++ {
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", tree[i]))
		for _, task := range tasks {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", tree[i], task.Name()))
			for _, field := range strings.Fields(string(text)) {
				if child, err := strconv.Atoi(field); err == nil {
					tree = append(tree, child)
				}
			}
		}
	}
	return tree
}

// cpuSeconds is user plus system time of pid and its descendants, the ended
// and waited-for ones included.
func cpuSeconds(pid int) float64 {
	if pid == 0 {
		return 0
	}
	ticks := 0
	for _, p := range processTree(pid) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		if err != nil {
			continue
		}
		// The command name may hold blanks: count fields after its bracket.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		for _, i := range []int{11, 12, 13, 14} { // utime stime cutime cstime
			n, _ := strconv.Atoi(fields[i])
			ticks += n
		}
	}
	return float64(ticks) / clockTicks
}

// eachCPUSeconds is cpuSeconds of each.
func eachCPUSeconds(pids []int) []float64 {
	each := make([]float64, len(pids))
	for i, pid := range pids {
		each[i] = cpuSeconds(pid)
	}
	return each
}

// rssBytes is the resident memory of the processes and their descendants.
func rssBytes(pids []int) int64 {
	var total int64
	var tree []int
	for _, pid := range pids {
		tree = append(tree, processTree(pid)...)
	}
	for _, p := range tree {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p))
		if err != nil {
			continue
		}
		pages, _ := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
		total += pages * int64(os.Getpagesize())
	}
	return total
}

// ownCPUSeconds is this process's user plus system time.
func ownCPUSeconds() float64 {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

// machineSeconds is what all cores were busy with since boot, and what the
// hypervisor took from them.
func machineSeconds() (busy, stolen float64) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line)[1:9] { // user nice system idle iowait irq softirq steal
		n, _ := strconv.Atoi(field)
		switch i {
		case 3, 4:
		case 7:
			stolen = float64(n) / clockTicks
		default:
			busy += float64(n) / clockTicks
		}
	}
	return busy, stolen
}
