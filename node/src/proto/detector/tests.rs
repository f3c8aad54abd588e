mod anything;
mod cluster;
mod rules;
