mod convergence;
mod hostile;
mod measuring;
mod net;
