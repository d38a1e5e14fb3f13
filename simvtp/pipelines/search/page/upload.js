const input = element.querySelector("input");
const drop = element.querySelector(".drop");
const said = element.querySelector(".said");

async function send(file) {
  said.textContent = `sending ${file.name} …`;
  try {
    const answer = await fetch("/api/uploads", { method: "POST", body: file });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.detail);
    said.textContent = file.name;
    trigger("sent", { name: told.upload });
  } catch (error) {
    said.textContent = `${file.name}: ${error.message}`;
  }
}

input.addEventListener("change", () => {
  if (input.files.length) send(input.files[0]);
  input.value = "";
});
drop.addEventListener("dragover", (event) => event.preventDefault());
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
});
