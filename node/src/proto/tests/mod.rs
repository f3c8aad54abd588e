mod convergence;
mod craft;
mod hostile;
mod measuring;
mod mixed;
mod net;
mod traps;
